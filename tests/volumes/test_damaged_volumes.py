"""Damaged volumes: a VolumeError that names file and slice, or the values that were stored, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prompt_das.volumes.intensity import estimate_intensity_range, read_preprocessed
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import VolumeError

import cv2
import h5py
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

SHAPE = (4, 70, 45)
NOISE = np.random.default_rng(0).integers(0, 65535, SHAPE).astype(np.uint16)
SMOOTH = np.stack([cv2.GaussianBlur(plane, (7, 7), 3) for plane in (NOISE >> 8).astype(np.uint8)])
Write = Callable[[Path], Path]


def folder(suffix: str, array: np.ndarray = SMOOTH, **options: Any) -> Write:
    def write(path: Path) -> Path:
        path.mkdir(parents=True)
        for z, plane in enumerate(array):
            if suffix == ".tif":
                tifffile.imwrite(path / f"{z}.tif", plane, **options)
            else:
                cv2.imwrite(str(path / f"{z}{suffix}"), plane)
        return path

    return write


def tiff(array: np.ndarray = NOISE, **options: Any) -> Write:
    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path.with_suffix(".tif"), array, **{"photometric": "minisblack", **options})
        return path.with_suffix(".tif")

    return write


def hdf5(array: np.ndarray = NOISE, **options: Any) -> Write:
    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path.with_suffix(".h5"), "w") as file:
            file.create_dataset("raw", data=array, **options)
        return path.with_suffix(".h5")

    return write


def zarr_array(**options: Any) -> Write:
    def write(path: Path) -> Path:
        array = zarr.open(str(path), mode="w", shape=SHAPE, chunks=(1, 32, 32), dtype="u2", **options)
        array[:] = NOISE
        return path

    return write


FORMATS: dict[str, Write] = {
    "PNG": folder(".png", NOISE),
    "JPEG": folder(".jpg"),
    "BMP": folder(".bmp"),
    "TIFF slices": folder(".tif", NOISE, compression="lzw"),
    "TIFF": tiff(),
    "TIFF, without description": tiff(metadata=None, compression="zlib"),
    "TIFF, ImageJ": tiff(imagej=True),
    "TIFF, OME": tiff(ome=True, compression="zstd"),
    "TIFF, tiles": tiff(tile=(32, 32), compression="zlib", bigtiff=True),
    "TIFF, JPEG": tiff(SMOOTH, tile=(32, 32), compression="jpeg"),
    "HDF5": hdf5(),
    "HDF5, chunks": hdf5(chunks=(1, 16, 16), compression="gzip"),
    "Zarr, Blosc": zarr_array(zarr_format=2, compressor=numcodecs.Blosc()),
    "Zarr, Zstandard": zarr_array(),
}


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def read_or_error(path: Path) -> list[np.ndarray | VolumeError]:
    """The slices of a volume, VolumeErrors in place of those, or of all, that cannot be read."""
    found: list[np.ndarray | VolumeError] = []
    try:
        volume = open_volume(path)
    except VolumeError as error:
        return [error] * SHAPE[0]
    for z in range(min(len(volume), 9)):
        try:
            found.append(volume.read(z))
            assert (found[-1].shape[:2], found[-1].dtype) == (volume.shape[1:], volume.dtype)
        except VolumeError as error:
            found.append(error)
    return found


# ---- fuzz


@pytest.mark.parametrize("name", FORMATS)
def test_fuzz(tmp_path: Path, name: str, damages: dict[str, Callable]) -> None:
    """No other exception, no hang. A file that was cut off never reads as something else, a PNG never whatever its
    damage; elsewhere, bits without a checksum may have become another plausible value."""
    rng = random.Random(name)
    whole = FORMATS[name](tmp_path / "whole" / "volume")
    stored = read_or_error(whole)
    errors = 0
    for number in range(100):
        path = tmp_path / str(number) / whole.name  # a new name: HDF5 would know the old one
        path.parent.mkdir()
        shutil.copytree(whole, path) if whole.is_dir() else shutil.copy(whole, path)
        file, damage = rng.choice(files_of(path)), list(damages)[number % 5]
        content = bytearray(file.read_bytes())
        damages[damage](content, rng)
        file.write_bytes(content)
        start = time.perf_counter()
        found = read_or_error(path)
        assert time.perf_counter() - start < 5
        if damage == "cut" or name == "PNG":
            assert len(found) == len(stored)
        for z, array in enumerate(found):
            if isinstance(array, VolumeError):
                assert str(path) in str(array)
                errors += 1
            elif damage == "cut" or name == "PNG":
                np.testing.assert_array_equal(array, stored[z], f"{damage} {file.name}, slice {z}")
    assert errors > 10  # the damage is damage


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".h5"])
def test_content_of_another_kind_under_a_suffix(tmp_path: Path, suffix: str) -> None:
    """It is recognized, or it is an error."""
    others = {"nothing": b"", "zeros": bytes(5000), "text": b"x, y\n1, 2\n" * 100, "pickle": pickle.dumps(NOISE)}
    for kind in (*FORMATS, *others):
        whole = FORMATS[kind](tmp_path / kind / "volume") if kind in FORMATS else None
        path = tmp_path / f"{kind}{suffix}"
        path.write_bytes(files_of(whole)[0].read_bytes() if whole else others[kind])
        found = read_or_error(path)[0]
        if isinstance(found, VolumeError):
            assert str(path) in str(found)
        else:
            assert whole is not None
            np.testing.assert_array_equal(found, read_or_error(whole)[0])


# ---- folders


def test_a_slice_of_another_type_or_size_names_itself_and_its_neighbor(tmp_path: Path) -> None:
    path = FORMATS["PNG"](tmp_path / "v")
    cv2.imwrite(str(path / "2.png"), SMOOTH[2])
    with pytest.raises(VolumeError, match=r"2\.png \(slice 2\) is 70 x 45 uint8, but 0\.png .* is 70 x 45 uint16"):
        open_volume(path).read(2)


def test_an_unreadable_first_slice_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    path = FORMATS["PNG"](tmp_path / "v")
    for name in ("0.png", "1.png"):
        (path / name).write_bytes((path / name).read_bytes()[:-5])
    volume = open_volume(path)
    assert (volume.shape, volume.dtype) == (SHAPE, np.uint16)
    with pytest.raises(VolumeError, match=r"0\.png \(slice 0\) cannot be read: it is damaged or incomplete"):
        volume.read(0)
    np.testing.assert_array_equal(volume.read(2), NOISE[2])


def test_a_folder_without_a_readable_slice_names_the_first(tmp_path: Path) -> None:
    for name in ("b.png", "a.tif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(VolumeError, match=r"not one of 2 slices can be read: .*a\.tif cannot be read: it is empty"):
        open_volume(tmp_path)


def test_a_jpeg_that_ends_early(tmp_path: Path) -> None:
    """OpenCV fills the rest with gray. The end of the thumbnail in the header is not the end of the picture."""
    _, encoded = cv2.imencode(".jpg", SMOOTH[0])
    _, thumbnail = cv2.imencode(".jpg", SMOOTH[0, :16, :16])
    header = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail.tobytes()
    content = encoded[:2].tobytes() + header + encoded[2:].tobytes()
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    np.testing.assert_array_equal(open_volume(path).read(0), cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    for length in range(0, len(content), 50):
        path.write_bytes(content[:length])
        with pytest.raises(VolumeError):
            open_volume(path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    path = FORMATS["PNG"](tmp_path / "v")
    os.mkfifo(path / "4.png")  # whoever opens a pipe waits for its other end
    (path / "5.png").symlink_to(path / "nowhere")
    (path / "6.png").mkdir()
    volume = open_volume(path)
    for z in (4, 5, 6):
        with pytest.raises(VolumeError, match=rf"{z}\.png \(slice {z}\) cannot be read: it is not a file"):
            volume.read(z)
    for name in ("pipe.tif", "pipe.h5"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(VolumeError, match="not a file"):
            open_volume(tmp_path / name)


def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    path, stack = FORMATS["PNG"](tmp_path / "v"), FORMATS["TIFF"](tmp_path / "stack")
    volume = open_volume(path)
    (path / "1.png").chmod(0)
    stack.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        for read in (lambda: volume.read(1), lambda: open_volume(stack)):
            with pytest.raises(VolumeError, match="PermissionError"):
                read()
    finally:
        os.seteuid(user)


# ---- TIFF


def test_a_list_of_pages_that_ends_early_is_not_a_smaller_volume(tmp_path: Path) -> None:
    path = FORMATS["TIFF, without description"](tmp_path / "stack")
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        last = tif.pages[3].offset
    path.write_bytes(content[:last])
    with pytest.raises(VolumeError, match=r"list of its pages is damaged or incomplete after page 2"):
        open_volume(path)


@pytest.mark.parametrize("name", ["TIFF, ImageJ", "TIFF, tiles"])
def test_the_description_says_how_many_slices_there_are(tmp_path: Path, name: str) -> None:
    """What a full disk or a broken download leaves: the length is right, but the end is zeros."""
    path = FORMATS[name](tmp_path / "stack")
    with tifffile.TiffFile(path) as tif:
        second = tif.pages[1].offset
    path.write_bytes(path.read_bytes()[:second].ljust(path.stat().st_size, b"\0"))
    with pytest.raises(VolumeError):
        assert open_volume(path).shape == SHAPE


def test_strips_that_lie_outside_the_file_are_not_zeros(tmp_path: Path) -> None:
    for path in (tmp_path / "v.tif", tmp_path / "v" / "0.tif"):
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, NOISE[0], compression="zlib", rowsperstrip=10)
        with tifffile.TiffFile(path, mode="r+") as tif:
            offsets = tif.pages[0].tags["StripOffsets"]
            offsets.overwrite((*offsets.value[:6], 10**6))
    volume = open_volume(tmp_path / "v.tif")
    np.testing.assert_array_equal(volume.read(0, (0, 0, 60, 45)), NOISE[0, :60])
    with pytest.raises(VolumeError, match=r"slice 0 cannot be read: v\.tif ends at byte \d+, before"):
        volume.read(0)
    with pytest.raises(VolumeError, match="ends at byte"):
        open_volume(tmp_path / "v")


def test_a_file_that_shrinks_while_it_is_open(tmp_path: Path) -> None:
    """Were it mapped into memory, this would end the process."""
    path = FORMATS["TIFF"](tmp_path / "stack")
    volume = open_volume(path)
    volume.read(0)
    os.truncate(path, 9000)
    np.testing.assert_array_equal(volume.read(0), NOISE[0])
    with pytest.raises(VolumeError, match=r"stack\.tif, slice 3 cannot be read: stack\.tif ends at byte 9000"):
        volume.read(3)


def test_pages_that_were_written_one_by_one_are_one_volume(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "v.tif") as tif:
        for plane in NOISE:
            tif.write(plane)
    volume = open_volume(tmp_path / "v.tif")
    assert volume.shape == SHAPE
    np.testing.assert_array_equal(volume.read(2), NOISE[2])


@pytest.mark.parametrize("description", [{}, {"metadata": None}])
def test_a_page_of_another_size_is_not_left_out(tmp_path: Path, description: dict) -> None:
    with tifffile.TiffWriter(tmp_path / "v.tif") as tif:
        for z in range(10):
            tif.write(np.zeros((20, 29 if z == 5 else 30), np.uint8), **description)
    with pytest.raises(VolumeError, match="pages differ in size or type"):
        open_volume(tmp_path / "v.tif")


def test_a_preview_behind_the_volume_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tifffile.TiffWriter(tmp_path / "v.tif") as tif:
        tif.write(NOISE, photometric="minisblack")
        tif.write(NOISE[0, ::4, ::4])
    np.testing.assert_array_equal(open_volume(tmp_path / "v.tif").read(3), NOISE[3])
    assert "v.tif: what follows the first 4 pages is not read" in caplog.text


@pytest.mark.parametrize("missing", [False, True])
def test_an_ome_tiff_in_two_files(tmp_path: Path, missing: bool) -> None:
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(2)
    )
    for z in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{z}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="45" SizeY="70" SizeZ="2" SizeC="1" '
            f'SizeT="1"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"{z}.ome.tif", NOISE[z], description=xml, metadata=None, compression="zlib")
    if missing:
        (tmp_path / "1.ome.tif").unlink()
    volume = open_volume(tmp_path / "0.ome.tif")
    np.testing.assert_array_equal(volume.read(0), NOISE[0])
    if missing:
        with pytest.raises(VolumeError, match=r"slice 1 cannot be read: .* a page that is not in the file"):
            volume.read(1)
    else:
        np.testing.assert_array_equal(volume.read(1), NOISE[1])


# ---- claims that nothing can hold


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib"}], ids=str)
def test_a_tiff_of_a_kilobyte_that_claims_to_be_huge(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "huge.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag in ("ImageLength", "ImageWidth"):
            tif.pages[0].tags[tag].overwrite(10**9)
    with pytest.raises(VolumeError, match=r"huge\.tif cannot be read"):
        open_volume(path)


def test_a_png_that_claims_to_be_huge(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (30_000, 10**6):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        (tmp_path / "huge.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )
        with pytest.raises(VolumeError, match=r"huge\.png"):
            open_volume(tmp_path / "huge.png")


def test_arrays_that_claim_to_be_huge(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("slices", shape=(2, 10**9, 10**9), chunks=(1, 64, 64), dtype="u1")
    volume = open_volume(tmp_path / "v.h5", "slices")
    with pytest.raises(VolumeError, match="it claims 931,322,575 GiB, and this machine has"):
        volume.read(0)
    assert volume.read(0, (0, 0, 64, 64)).shape == (64, 64)
    path = FORMATS["Zarr, Blosc"](tmp_path / "v.zarr")
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**metadata, "chunks": [1, 10**7, 10**7]}))
    with pytest.raises(VolumeError, match="it claims 186,265 GiB"):
        open_volume(path)


# ---- HDF5 and Zarr


def test_what_is_not_a_volume(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["empty"] = np.zeros((0, 4, 4))
        file["complex"] = np.zeros((2, 4, 4), np.complex64)
        file["names"] = ["a", "b"]
    for name, message in (("empty", "0 slices of 4 x 4"), ("complex", "complex64"), ("names", r"shape \(2,\)")):
        with pytest.raises(VolumeError, match=message):
            open_volume(tmp_path / "v.h5", name)


def test_half_a_chunk_of_blosc(tmp_path: Path) -> None:
    """Blosc decodes it, to anything."""
    path = FORMATS["Zarr, Blosc"](tmp_path / "v.zarr")
    (path / "1.0.0").write_bytes((path / "1.0.0").read_bytes()[:-1])
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(1, (32, 0, 70, 45)), NOISE[1, 32:])
    with pytest.raises(VolumeError, match=r"slice 1 cannot be read: its chunk .*1\.0\.0 is damaged or incomplete"):
        volume.read(1)


def test_a_chunk_that_is_not_there_was_never_written(tmp_path: Path) -> None:
    """So the rules of Zarr: a lost chunk cannot be told from an empty one."""
    path = FORMATS["Zarr, Blosc"](tmp_path / "v.zarr")
    (path / "1.0.0").unlink()
    assert not open_volume(path).read(1, (0, 0, 32, 32)).any()


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_no_code_of_a_hostile_zarr_is_run(tmp_path: Path, place: str) -> None:
    path = FORMATS["Zarr, Blosc"](tmp_path / "v.zarr")
    metadata = json.loads((path / ".zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    metadata |= {"compressor": None, "filters": None, place: codec if place == "compressor" else [codec]}
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / "0.0.0").write_bytes(b"cos\nmkdir\n(V" + str(tmp_path / "pwned").encode() + b"\ntR.")
    with pytest.raises(VolumeError):
        open_volume(path).read(0)
    assert not (tmp_path / "pwned").exists()


# ---- intensities


def test_pixels_that_are_not_finite(tmp_path: Path) -> None:
    array = np.linspace(0, 1, 4 * 70 * 45, dtype=np.float32).reshape(SHAPE)
    array[1, :2, 0], array[1, 5, 5] = np.nan, np.inf
    volume = open_volume(hdf5(array)(tmp_path / "v"))
    with pytest.raises(VolumeError, match=r"v\.h5, slice 1: 3 of 3150 pixels are NaN, infinite"):
        read_preprocessed(volume, 1, None, (0, 1))
    assert read_preprocessed(volume, 1, (6, 6, 70, 45), (0, 1)).max() < 255
    assert np.isnan(volume.read(1)).sum() == 2  # as it is stored


def test_the_estimated_range_skips_what_cannot_be_read(tmp_path: Path) -> None:
    array = np.ones(SHAPE, np.float32)
    array[0], array[1, 0, 0], array[3, :35] = np.nan, np.inf, 2
    path = folder(".tif", array, compression="zlib")(tmp_path / "v")
    (path / "2.tif").write_bytes(b"")
    assert estimate_intensity_range(open_volume(path)) == (1, 2)
    for name in ("1.tif", "3.tif"):
        (path / name).write_bytes(b"")
    with pytest.raises(VolumeError, match=r"no intensities in the slices \[0, 1, 2, 3\].* intensity_range must be set"):
        estimate_intensity_range(open_volume(path))


def test_errors_reach_the_parent_process(tmp_path: Path) -> None:
    error = VolumeError(f"{tmp_path}, slice 3 cannot be read")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


def test_a_damaged_index_of_chunks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One flipped bit in a file is enough; h5py raises a RuntimeError then."""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("scan", data=np.zeros((2, 8, 8), np.uint8), chunks=(1, 8, 8))
    volume = open_volume(tmp_path / "scan.h5")

    def fail() -> int:
        raise RuntimeError("bad coordinate offset")

    monkeypatch.setattr(
        volume, "_handle", lambda: SimpleNamespace(shape=(2,), chunks=(1,), id=SimpleNamespace(get_num_chunks=fail))
    )
    with pytest.raises(VolumeError, match=r"scan\.h5: the index of its chunks is damaged: bad coordinate offset"):
        volume.chunks_written()
