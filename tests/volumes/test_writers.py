"""What is written can be read by this package and means the same to others."""

from __future__ import annotations

import json
from pathlib import Path

from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.writers import INSTANCES, add_instances, create_ome_zarr, write_hdf5, write_tiff

import h5py
import numpy as np
import pytest
import tifffile
import zarr

SHAPE = (3, 1030, 40)  # more than one chunk and one strip in y
VOXEL_SIZE = (30.0, 8.0, 4.0)
ABOUT = {"image": {"path": "scan.tif"}}


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def group(tmp_path: Path, values: np.ndarray) -> zarr.Group:
    group = create_ome_zarr(tmp_path / "out.zarr", SHAPE, ("probability",), VOXEL_SIZE, ABOUT)
    for z, one in enumerate(values):
        group["probability"][z] = one
    labels = add_instances(group, SHAPE, 70_000, VOXEL_SIZE)
    labels[1] = values[1] * np.uint32(270)
    return group


def assert_equal_volume(path: Path, dataset: str | None, expected: np.ndarray) -> None:
    volume = open_volume(path, dataset)
    assert volume.shape == expected.shape
    for z, one in enumerate(expected):
        np.testing.assert_array_equal(volume.read(z), one)
    np.testing.assert_array_equal(volume.read(1, (1020, 3, 1028, 9)), expected[1, 1020:1028, 3:9])


def test_the_zarr_reads_as_a_volume(tmp_path: Path, group: zarr.Group, values: np.ndarray) -> None:
    assert_equal_volume(tmp_path / "out.zarr", None, values)  # the first map is what a viewer opens
    ids = np.zeros(SHAPE, np.uint32)
    ids[1] = values[1] * np.uint32(270)
    assert_equal_volume(tmp_path / "out.zarr", INSTANCES, ids)


def test_the_metadata_are_those_of_ome_ngff_0_4(tmp_path: Path, group: zarr.Group) -> None:
    root = tmp_path / "out.zarr"
    attributes = json.loads((root / ".zattrs").read_text())
    (scales,) = attributes["multiscales"]
    assert scales["version"] == "0.4"
    assert scales["axes"] == [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    (dataset,) = scales["datasets"]
    assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [30, 8, 4]}]
    array = json.loads((root / dataset["path"] / ".zarray").read_text())
    assert array["zarr_format"] == 2
    assert array["dimension_separator"] == "/"
    assert attributes["prompt_das"] == ABOUT
    assert json.loads((root / "labels" / ".zattrs").read_text())["labels"] == ["instances"]
    label = json.loads((root / "labels" / "instances" / ".zattrs").read_text())
    assert label["image-label"]["source"]["image"] == "../../"
    assert label["multiscales"][0]["datasets"][0]["path"] == "0"


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, "uint16"), (65_535, "uint16"), (65_536, "uint32"), (2**32 - 1, "uint32"), (2**32, "uint64")],
)
def test_ids_get_a_type_that_holds_them(tmp_path: Path, count: int, dtype: str) -> None:
    group = create_ome_zarr(tmp_path / "out.zarr", (1, 2, 2), ("probability",), None, {})
    assert add_instances(group, (1, 2, 2), count, None).dtype == dtype


def test_instances_are_written_anew(group: zarr.Group) -> None:
    assert np.any(group[INSTANCES][:])
    labels = add_instances(group, SHAPE, 5, None)
    assert labels.dtype == np.uint16
    assert not np.any(labels[:])


def test_hdf5_is_a_copy(tmp_path: Path, group: zarr.Group, values: np.ndarray) -> None:
    seen: list[int] = []
    arrays = {"probability": group["probability"], "labels": group[INSTANCES]}
    write_hdf5(tmp_path / "out.h5", arrays, VOXEL_SIZE, ABOUT, seen.append)
    assert sum(seen) == 6
    assert_equal_volume(tmp_path / "out.h5", "probability", values)
    assert_equal_volume(tmp_path / "out.h5", "labels", np.asarray(group[INSTANCES]))
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["labels"].attrs["element_size_um"], [0.03, 0.008, 0.004])
        assert json.loads(file.attrs["prompt_das"]) == ABOUT


@pytest.mark.parametrize("name", ["probability", INSTANCES])
def test_tiff_is_a_copy(tmp_path: Path, group: zarr.Group, name: str) -> None:
    seen: list[int] = []
    write_tiff(tmp_path / "out.tif", group[name], VOXEL_SIZE, seen.append)
    assert sum(seen) == 3
    assert_equal_volume(tmp_path / "out.tif", None, np.asarray(group[name]))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), group[name][:])
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        tags = tif.pages[0].tags
        pixels_per_cm = [tags[tag].value[0] / tags[tag].value[1] for tag in ("XResolution", "YResolution")]
        assert pixels_per_cm == [1e7 / 4, 1e7 / 8]


def test_equal_volumes_give_equal_files(tmp_path: Path, values: np.ndarray) -> None:
    for name in ("a", "b"):
        group = create_ome_zarr(tmp_path / name, SHAPE, ("probability",), VOXEL_SIZE, ABOUT)
        group["probability"][:] = values
        write_hdf5(tmp_path / f"{name}.h5", {"p": group["probability"]}, None, ABOUT, lambda n: None)
        write_tiff(tmp_path / f"{name}.tif", group["probability"], None, lambda n: None)
    for ending in ("h5", "tif"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
