"""Volumes: every format gives the same voxels, a crop at a time, in this process and in others."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

from prompt_das.utils.natural_sort import natural_key
from prompt_das.volumes import folder_volume
from prompt_das.volumes.image_files import decode_rgb_ids
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import VolumeError

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = (4, 70, 45)  # neither side a multiple of a tile, strip or chunk


def voxels(dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, SHAPE).astype(dtype)


def write_png_folder(path: Path, array: np.ndarray) -> tuple[Path, str | None]:
    path.mkdir()
    for z, plane in enumerate(array):
        cv2.imwrite(str(path / f"slice_{z + 8}.png"), plane)  # 8, 9, 10, 11: not in the order of the alphabet
    return path, None


def write_tiff_folder(path: Path, array: np.ndarray) -> tuple[Path, str | None]:
    path.mkdir()
    for z, plane in enumerate(array):
        tifffile.imwrite(path / f"{z:03d}.tif", plane, compression="lzw")
    return path, None


def write_tiff(**options: object) -> Callable[[Path, np.ndarray], tuple[Path, str | None]]:
    def write(path: Path, array: np.ndarray) -> tuple[Path, str | None]:
        path = path.with_suffix(".tif")
        tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})
        return path, None

    return write


def write_hdf5(path: Path, array: np.ndarray) -> tuple[Path, str | None]:
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("volumes/raw", data=array, chunks=(1, 16, 16), compression="gzip")
        file["volumes/other"] = array[:1]
    return path, "volumes/raw"


def write_zarr(path: Path, array: np.ndarray) -> tuple[Path, str | None]:
    group = zarr.open_group(str(path), mode="w")
    group.create_array("raw", shape=array.shape, chunks=(1, 16, 16), dtype=array.dtype)[:] = array
    return path, None


def write_ome_zarr(path: Path, array: np.ndarray) -> tuple[Path, str | None]:
    """Axes t, c, z, y, x, and a second, coarser scale."""
    group = zarr.open_group(str(path), mode="w")
    for name, scale in (("0", array), ("1", array[:, ::2, ::2])):
        group.create_array(name, shape=(1, 1, *scale.shape), chunks=(1, 1, 1, 16, 16), dtype=array.dtype)[0, 0] = scale
    group.attrs["multiscales"] = [{"datasets": [{"path": "0"}, {"path": "1"}]}]
    return path, None


FORMATS = {
    "PNG folder": write_png_folder,
    "TIFF folder": write_tiff_folder,
    "TIFF": write_tiff(),
    "TIFF, big-endian": write_tiff(byteorder=">"),
    "TIFF, ImageJ": write_tiff(imagej=True),
    "TIFF, strips": write_tiff(compression="zlib", rowsperstrip=9, predictor=True),
    "TIFF, tiles": write_tiff(compression="zlib", tile=(32, 16)),
    "TIFF, tiles, Zstandard": write_tiff(compression="zstd", tile=(16, 32), bigtiff=True),
    "TIFF, tiles, uncompressed": write_tiff(tile=(32, 32)),
    "TIFF, planes of one page": write_tiff(photometric="rgb", planarconfig="separate", compression="zlib"),
    "HDF5": write_hdf5,
    "Zarr": write_zarr,
    "OME-Zarr": write_ome_zarr,
}


@pytest.fixture(scope="module", params=FORMATS, ids=str)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str | None]:
    return FORMATS[request.param](tmp_path_factory.mktemp("volume") / "volume", voxels())


# ---- reading


def test_natural_order_counts() -> None:
    assert sorted(["im10.png", "im9.png", "IM1.png", "a.png"], key=natural_key) == [
        "a.png",
        "IM1.png",
        "im9.png",
        "im10.png",
    ]


@settings(max_examples=20)
@given(data=st.data())
def test_a_crop_is_that_part_of_the_slice(stored: tuple[Path, str | None], data: st.DataObject) -> None:
    volume = open_volume(*stored)
    depth, height, width = SHAPE
    z = data.draw(st.integers(0, depth - 1))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    crop = volume.read(z, (y0, x0, y1, x1))
    assert (volume.shape, volume.dtype, crop.dtype) == (SHAPE, np.uint16, np.uint16)
    np.testing.assert_array_equal(crop, voxels()[z, y0:y1, x0:x1])


def test_a_whole_slice(stored: tuple[Path, str | None]) -> None:
    np.testing.assert_array_equal(open_volume(*stored).read(3), voxels()[3])


def test_a_crop_may_be_changed_without_changing_the_volume(stored: tuple[Path, str | None]) -> None:
    volume = open_volume(*stored)
    volume.read(0, (0, 0, 5, 5))[:] = 0
    np.testing.assert_array_equal(volume.read(0), voxels()[0])


def test_folders_have_slice_names(tmp_path: Path) -> None:
    path, _ = write_png_folder(tmp_path / "volume", voxels("uint8"))
    (path / "readme.txt").write_text("not a slice")
    assert open_volume(path).slice_names == ["slice_8.png", "slice_9.png", "slice_10.png", "slice_11.png"]


def test_one_picture_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), voxels("uint8")[0])
    tifffile.imwrite(tmp_path / "one.tif", voxels("uint8")[0])
    for name in ("one.png", "one.tif"):
        volume = open_volume(tmp_path / name)
        assert volume.shape == (1, *SHAPE[1:])
        np.testing.assert_array_equal(volume.read(0), voxels("uint8")[0])


@pytest.mark.parametrize("suffix", ["png", "tif", "tiled tif"])
def test_color_keeps_its_order(tmp_path: Path, suffix: str) -> None:
    red = np.zeros((40, 30, 3), np.uint8)
    red[..., 0] = 200
    path = tmp_path / f"red.{suffix[-3:]}"
    if suffix == "png":
        cv2.imwrite(str(path), red[..., ::-1])
    else:
        tifffile.imwrite(path, red, photometric="rgb", compression="zlib", tile=(16, 16) if "tiled" in suffix else None)
    volume = open_volume(path)
    assert volume.shape == (1, 40, 30)
    np.testing.assert_array_equal(volume.read(0, (2, 3, 20, 30)), red[2:20, 3:30])


def test_a_crop_of_a_tiled_tiff_decodes_its_own_tiles_only(tmp_path: Path) -> None:
    path = tmp_path / "tiled.tif"
    array = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(path, array, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages.first.dataoffsets[3], tif.pages.first.databytecounts[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)  # spoil the last tile
    path.write_bytes(content)
    np.testing.assert_array_equal(open_volume(path).read(0, (0, 0, 64, 32)), array[:, :32])
    with pytest.raises(VolumeError, match=r"tiled\.tif, slice 0 cannot be read: .*BAD_DATA"):
        open_volume(path).read(0, (32, 32, 33, 33))


def test_a_tile_that_was_never_written_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    tiles = [np.full((16, 16), 7, np.uint8), None, None, None]
    tifffile.imwrite(path, iter(tiles), shape=(32, 32), dtype=np.uint8, tile=(16, 16), compression="zlib")
    expected = np.zeros((32, 32), np.uint8)
    expected[:16, :16] = 7
    np.testing.assert_array_equal(open_volume(path).read(0), expected)


def test_a_folder_keeps_decoded_slices_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write_png_folder(tmp_path / "volume", voxels("uint8"))
    monkeypatch.setattr(folder_volume, "_CACHE_BYTES", 2 * SHAPE[1] * SHAPE[2])
    volume, decoded = open_volume(path), []
    decode = folder_volume.decode_image
    monkeypatch.setattr(folder_volume, "decode_image", lambda file: (decoded.append(file.stem), decode(file))[1])
    for z in (0, 0, 1, 0, 2, 0, 1):  # slice 1 made room for slice 2: it was used longest ago
        np.testing.assert_array_equal(volume.read(z, (0, 0, 9, 9)), voxels("uint8")[z, :9, :9])
    assert decoded == ["slice_8", "slice_9", "slice_10", "slice_9"]


# ---- what an OME-Zarr says of its axes and scales


def write_scales(path: Path, axes: list, arrays: dict[str, np.ndarray]) -> Path:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name, array in arrays.items():
        group.create_array(name, shape=array.shape, chunks=array.shape, dtype=array.dtype)[:] = array
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": name} for name in arrays]}]
    return path


def named(axes: str) -> list[dict[str, str]]:
    return [{"name": axis, "type": "channel" if axis == "c" else "space"} for axis in axes]


@pytest.mark.parametrize("dataset", [None, "0"])
@pytest.mark.parametrize("axes", ["zyx", "xyz", "yxz", "czyx", "zycx"])
def test_axes_in_any_order(tmp_path: Path, axes: str, dataset: str | None) -> None:
    lengths = dict(zip("czyx", (1, *SHAPE)))
    order = tuple("czyx".index(axis) for axis in axes)
    array = voxels()[None] if "c" in axes else voxels()
    stored = np.transpose(array, order if "c" in axes else [one - 1 for one in order])
    assert stored.shape == tuple(lengths[axis] for axis in axes)
    for description in (named(axes), list(axes)):  # OME-Zarr 0.4 and 0.3
        volume = open_volume(write_scales(tmp_path / "v.zarr", description, {"0": stored}), dataset)
        assert volume.shape == SHAPE
        np.testing.assert_array_equal(volume.read(2, (3, 5, 60, 40)), voxels()[2, 3:60, 5:40])


def test_channels_are_not_slices(tmp_path: Path) -> None:
    path = write_scales(tmp_path / "v.zarr", named("cyx"), {"0": voxels()})
    with pytest.raises(VolumeError, match=r"v\.zarr: axes cyx of shape \(4, 70, 45\): 4 along 'c'"):
        open_volume(path)
    path = write_scales(tmp_path / "v.zarr", named("cyx"), {"0": voxels()[:1]})
    np.testing.assert_array_equal(open_volume(path).read(0), voxels()[0])


def test_axes_that_are_no_axes(tmp_path: Path) -> None:
    for axes in (named("zy"), named("zzx"), named("abc"), ["depth", "y", "x"]):
        with pytest.raises(VolumeError, match="axes"):
            open_volume(write_scales(tmp_path / "v.zarr", axes, {"0": voxels()}))


def test_the_finest_scale_is_read_wherever_it_is_listed(tmp_path: Path) -> None:
    path = write_scales(tmp_path / "v.zarr", named("zyx"), {"s1": voxels()[:, ::2, ::2], "s0": voxels()})
    assert open_volume(path).shape == SHAPE
    assert open_volume(path, "s1").shape == (4, 35, 23)


def test_dimension_names_of_an_array_by_itself(tmp_path: Path) -> None:
    stored = voxels().T
    array = zarr.create_array(
        str(tmp_path / "v.zarr"), shape=stored.shape, chunks=stored.shape, dtype="u2", dimension_names=["x", "y", "z"]
    )
    array[:] = stored
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zarr").read(2), voxels()[2])


# ---- other processes


def test_a_volume_can_be_pickled(stored: tuple[Path, str | None]) -> None:
    volume = open_volume(*stored)
    volume.read(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read(1), voxels()[1])  # noqa: S301


_inherited = None


def _read_inherited(z: int) -> np.ndarray:
    assert _inherited is not None
    return _inherited.read(z, (5, 5, 40, 40))


@pytest.mark.parametrize("name", ["PNG folder", "TIFF, tiles", "HDF5"])
def test_forked_workers_read_what_the_parent_reads(tmp_path: Path, name: str) -> None:
    global _inherited  # workers get it by fork, with the file open
    _inherited = open_volume(*FORMATS[name](tmp_path / "volume", voxels()))
    _inherited.read(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        crops = pool.map(_read_inherited, [z % 4 for z in range(40)], chunksize=1)
    for z, crop in enumerate(crops):
        np.testing.assert_array_equal(crop, voxels()[z % 4, 5:40, 5:40])


# ---- ids


@given(st.integers(0, 2**24 - 1))
def test_rgb_coded_ids(number: int) -> None:
    red, green, blue = number // 65536, number // 256 % 256, number % 256
    assert decode_rgb_ids(np.array([[[red, green, blue, 255]]], np.uint8)).tolist() == [[number]]


def test_rgb_coded_ids_must_be_rgb() -> None:
    with pytest.raises(ValueError, match="uint16"):
        decode_rgb_ids(np.zeros((2, 2, 3), np.uint16))


# ---- errors say what is wrong and where


def test_errors_of_opening(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*datasets/README"):
        open_volume(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no slices"):
        open_volume(tmp_path / "empty")
    (tmp_path / "volume.nii").touch()
    with pytest.raises(ValueError, match=r"'\.nii'"):
        open_volume(tmp_path / "volume.nii")
    path, _ = write_hdf5(tmp_path / "several", voxels())
    with pytest.raises(ValueError, match=r"volumes/other.*volumes/raw.*say which"):
        open_volume(path)
    with pytest.raises(ValueError, match=r"no array 'raw'"):
        open_volume(path, "raw")
    tifffile.imwrite(tmp_path / "5d.tif", np.zeros((2, 5, 8, 8), np.uint8), metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match=r"\(2, 5, 8, 8\)"):
        open_volume(tmp_path / "5d.tif")


def test_errors_of_reading(tmp_path: Path) -> None:
    path, _ = write_png_folder(tmp_path / "volume", voxels("uint8"))
    volume = open_volume(path)
    with pytest.raises(IndexError, match=r"slice 4 .*0\.\.3"):
        volume.read(4)
    for box in ((-1, 0, 5, 5), (0, 0, 71, 5), (3, 3, 3, 5), (0, 40, 5, 46)):
        with pytest.raises(ValueError, match="70 x 45"):
            volume.read(0, box)
    cv2.imwrite(str(path / "slice_9.png"), np.zeros((70, 44), np.uint8))
    with pytest.raises(ValueError, match=r"slice_9\.png \(slice 1\) is 70 x 44"):
        volume.read(1)
    content = (path / "slice_10.png").read_bytes()
    (path / "slice_10.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"slice_10\.png \(slice 2\) cannot be read"):
        volume.read(2)
