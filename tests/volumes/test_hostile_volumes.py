"""Files that are made to fill the memory, to hang, to end the process, or to read what they should not."""

from __future__ import annotations

import faulthandler
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_zarr import inflating, zarr_of_format_2
from prompt_das.data.datasets import find_volume
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import VolumeError

import h5py
import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

VOXELS = np.random.default_rng(0).integers(0, 255, (2, 8, 8)).astype(np.uint8)
MANY = 10**9


@pytest.fixture(autouse=True)
def in_seconds() -> Iterator[None]:
    """A hang ends the test process, with a traceback, instead of stopping the suite."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def refused(path: Path, dataset: str | None = None) -> str:
    """The error of opening or reading a volume."""
    with pytest.raises(VolumeError) as error:
        open_volume(path, dataset).read(0)
    assert path.name in str(error.value)
    return str(error.value)


# ---- more slices than any volume has


def hdf5_of_many_slices(path: Path) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("raw", (MANY, 8, 8), "u1", chunks=(1, 8, 8))
    return path.with_suffix(".h5")


def zarr_of_many_slices(path: Path) -> Path:
    zarr.create_array(str(path), shape=(MANY, 8, 8), chunks=(1, 8, 8), dtype="u1")
    return path


def tiff_of_many_slices(path: Path) -> Path:
    tifffile.imwrite(path.with_suffix(".tif"), VOXELS, imagej=True, photometric="minisblack")
    with tifffile.TiffFile(path.with_suffix(".tif"), mode="r+") as tif:
        description = tif.pages[0].tags["ImageDescription"]
        description.overwrite(description.value.replace("=2", f"={MANY}"))
    return path.with_suffix(".tif")


@pytest.mark.parametrize("write", [hdf5_of_many_slices, zarr_of_many_slices, tiff_of_many_slices])
def test_nothing_is_listed_for_slices_that_a_header_claims(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path / "v.zarr")
    with pytest.raises(VolumeError, match=r"v\.\w+"):
        find_volume(path)


def test_names_for_another_number_of_slices(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "v.zarr"), shape=(3, 8, 8), chunks=(1, 8, 8), dtype="u1")
    array.attrs["slice_names"] = ["a.png"]
    assert "1 slice_names for 3 slices" in refused(tmp_path / "v.zarr")


# ---- Zarr


@pytest.mark.parametrize("codec", sorted(inflating(b"")))
def test_a_chunk_of_its_size_is_read(tmp_path: Path, codec: str) -> None:
    path = zarr_of_format_2(tmp_path / "v.zarr", *inflating(VOXELS[0].tobytes())[codec])
    np.testing.assert_array_equal(open_volume(path).read(0), VOXELS[0])


@pytest.mark.parametrize("codec", sorted(inflating(b"")))
def test_a_chunk_that_inflates_past_its_size_is_not_decoded(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prompt_das.volumes.zarr_chunks._HARMLESS", 0)  # gzip is looked through from a megabyte on
    path = zarr_of_format_2(tmp_path / "v.zarr", *inflating(bytes(10**6))[codec])
    assert "inflates to more than the 64 bytes of a chunk" in refused(path)


@pytest.mark.parametrize("codec", ["zstd", "blosc"])
def test_a_header_that_claims_a_terabyte(tmp_path: Path, codec: str) -> None:
    compressor, chunk = inflating(VOXELS[0].tobytes())[codec]
    huge = {
        "zstd": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + chunk[6:] + bytes(18),
        "blosc": chunk[:4] + struct.pack("<I", 2**32 - 1) + chunk[8:],
    }
    assert "inflates" in refused(zarr_of_format_2(tmp_path / "v.zarr", compressor, huge[codec]))


def test_a_chunk_in_a_shard_that_inflates_past_its_size(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    array = zarr.create_array(str(path), shape=(2, 8, 8), chunks=(1, 4, 8), shards=(1, 8, 8), dtype="u1")
    array[:] = VOXELS
    np.testing.assert_array_equal(open_volume(path).read(1, (2, 0, 8, 8)), VOXELS[1, 2:])
    bomb = numcodecs.Zstd(1).encode(bytes(10**6))
    index = struct.pack("<4Q", 0, len(bomb), 2**64 - 1, 2**64 - 1)
    checksum = imagecodecs.crc32c(index) if hasattr(imagecodecs, "crc32c") else 0
    (path / "c" / "0" / "0" / "0").write_bytes(bomb + index + struct.pack("<I", checksum))
    assert "inflates to more than the 32 bytes of a chunk" in refused(path)
    (path / "c" / "0" / "0" / "0").write_bytes(b"short")
    assert "is damaged or incomplete" in refused(path)


def test_a_checksum_behind_a_chunk_does_not_hide_its_size(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    codecs = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    zarr.create_array(str(path), shape=(2, 8, 8), chunks=(1, 8, 8), dtype="u1", compressors=codecs)[:] = VOXELS
    np.testing.assert_array_equal(open_volume(path).read(1), VOXELS[1])
    (path / "c" / "0" / "0" / "0").write_bytes(numcodecs.Zstd(1).encode(bytes(10**6)) + bytes(4))
    assert "inflates to more than the 64 bytes of a chunk" in refused(path)


def test_a_file_that_is_larger_than_a_chunk_can_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    zarr.create_array(str(path), shape=(2, 8, 8), chunks=(1, 8, 8), dtype="u1", compressors=None)[:] = VOXELS
    os.truncate(path / "c" / "0" / "0" / "0", 2**40)  # a file with a hole, which takes no room
    assert "1,099,511,627,776 bytes, more than" in refused(path)


def test_chunks_that_are_compressed_several_times(tmp_path: Path) -> None:
    path = zarr_of_format_2(tmp_path / "v.zarr", {"id": "zlib", "level": 1}, zlib.compress(zlib.compress(bytes(10**6))))
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**metadata, "filters": [{"id": "zlib", "level": 1}]}))
    assert "encoded several times over" in refused(path)


@pytest.mark.parametrize("name", ["zarr.json", "c/0/0/0", ".zattrs", "other/zarr.json"])
def test_a_fifo_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "v.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if name == ".zattrs" else 3)
    (group if name != "c/0/0/0" else zarr).create_array(
        **({"name": "raw"} if name != "c/0/0/0" else {"store": str(path), "overwrite": True}),
        **{"shape": (2, 8, 8), "chunks": (1, 8, 8), "dtype": "u1"},
    )
    (path / name).unlink(missing_ok=True)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path / name)
    assert "is not a regular file" in refused(path)


# ---- HDF5


@pytest.fixture
def virtual(tmp_path: Path) -> Callable[..., Path]:
    """``virtual(file, dataset)``: a file whose dataset "raw" is virtual and names that one as its source."""

    def write(source_file: str, source: str, shape: tuple[int, ...] = (2, 8, 8)) -> Path:
        path = tmp_path / "virtual.h5"
        with h5py.File(path, "w") as file:
            layout = h5py.VirtualLayout((2, 8, 8), "u1")
            layout[:] = h5py.VirtualSource(source_file, source, shape)
            file.create_virtual_dataset("raw", layout)
        return path

    return write


@pytest.mark.parametrize("source_file", [".", "virtual.h5"])
def test_a_virtual_dataset_that_names_itself_does_not_end_the_process(
    virtual: Callable[..., Path], source_file: str
) -> None:
    assert "is virtual as well" in refused(virtual(source_file, "raw"))


def test_a_virtual_dataset_of_what_is_there_is_read(virtual: Callable[..., Path], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["images/raw"] = VOXELS
    np.testing.assert_array_equal(open_volume(virtual("source.h5", "images/raw")).read(1), VOXELS[1])


def test_a_source_that_is_missing_is_not_zeros(virtual: Callable[..., Path], tmp_path: Path) -> None:
    path = virtual("source.h5", "raw")
    assert "its source 'raw' in 'source.h5' is missing" in refused(path)
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["other"] = VOXELS
    assert "its source 'raw' in 'source.h5' is missing" in refused(path)
    with h5py.File(tmp_path / "source.h5", "a") as file:
        file["raw"] = VOXELS[:1]
    assert "has the shape (1, 8, 8), which is too small" in refused(path)


def test_values_in_a_foreign_file_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(128))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("raw", (2, 8, 8), "u1", external=[(str(tmp_path / "secret"), 0, 128)])
    assert "are in another file" in refused(tmp_path / "v.h5")


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "other.h5")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["raw"] = h5py.ExternalLink("other.h5", "/images/raw")
        file["soft"] = h5py.SoftLink("/raw")
        file["circle"] = h5py.SoftLink("/circle")
        file["images/true"] = VOXELS
        file["alias"] = h5py.SoftLink("images/true")
    for name in ("raw", "soft"):
        assert "'raw' is a link to '/images/raw' in the file 'other.h5'" in refused(tmp_path / "v.h5", name)
    assert "leads to no end" in refused(tmp_path / "v.h5", "circle")
    for name in ("alias", None):
        np.testing.assert_array_equal(open_volume(tmp_path / "v.h5", name).read(0), VOXELS[0])


@pytest.mark.parametrize("dataset", [None, "raw", "other"])
def test_a_name_that_is_not_utf_8(tmp_path: Path, dataset: str | None) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset(b"r\xffw", data=VOXELS)
        file["raw"] = VOXELS
    assert r"the name b'r\xffw' in its group '/' is not UTF-8" in refused(tmp_path / "v.h5", dataset)


def test_a_group_that_holds_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["images/raw"] = VOXELS
        file["images/again"] = file["images"]
    np.testing.assert_array_equal(open_volume(tmp_path / "v.h5").read(1), VOXELS[1])
