"""Copies as HDF5 and TIFF can be read by this package and mean the same to others."""

from __future__ import annotations

import json
from pathlib import Path

from prompt_das.volumes.ome_zarr import INSTANCES, add_instances, create_ome_zarr, finest
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.writers import write_hdf5, write_tiff

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
        finest(group, "probability")[z] = one
    labels = add_instances(group, SHAPE, 70_000, VOXEL_SIZE)
    labels[1] = values[1] * np.uint32(270)
    return group


def assert_equal_volume(path: Path, dataset: str | None, expected: np.ndarray) -> None:
    volume = open_volume(path, dataset)
    assert volume.shape == expected.shape
    for z, one in enumerate(expected):
        np.testing.assert_array_equal(volume.read(z), one)
    np.testing.assert_array_equal(volume.read(1, (1020, 3, 1028, 9)), expected[1, 1020:1028, 3:9])


def test_hdf5_is_a_copy(tmp_path: Path, group: zarr.Group, values: np.ndarray) -> None:
    seen: list[int] = []
    arrays = {"probability": finest(group, "probability"), "labels": group[INSTANCES]}
    write_hdf5(tmp_path / "out.h5", arrays, VOXEL_SIZE, ABOUT, seen.append)
    assert sum(seen) == 6
    assert_equal_volume(tmp_path / "out.h5", "probability", values)
    assert_equal_volume(tmp_path / "out.h5", "labels", np.asarray(group[INSTANCES]))
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["labels"].attrs["element_size_um"], [0.03, 0.008, 0.004])
        assert json.loads(file.attrs["prompt_das"]) == ABOUT


@pytest.mark.parametrize("name", ["probability/0", INSTANCES])
def test_tiff_is_a_copy(tmp_path: Path, group: zarr.Group, name: str) -> None:
    seen: list[int] = []
    write_tiff(tmp_path / "out.tif", group[name], VOXEL_SIZE, seen.append)
    assert sum(seen) == 3
    assert_equal_volume(tmp_path / "out.tif", None, np.asarray(group[name]))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), group[name][:])


def test_imagej_reads_the_size_of_a_tiff_with_the_distance_of_its_slices(tmp_path: Path, group: zarr.Group) -> None:
    """ImageJ 1.52i shows 4 x 8 x 30 nm and these pixels. With a predictor it shows differences of pixels, silently."""
    write_tiff(tmp_path / "out.tif", finest(group, "probability"), VOXEL_SIZE, lambda n: None)
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert tif.is_imagej
        assert not tif.is_bigtiff
        described = tif.imagej_metadata
        assert described is not None
        assert (described["unit"], described["spacing"], described["slices"]) == ("nm", 30, 3)
        tags = tif.pages[0].tags
        assert [tags[tag].value[0] / tags[tag].value[1] for tag in ("XResolution", "YResolution")] == [1 / 4, 1 / 8]
        assert tags["ResolutionUnit"].value == 1
        assert (tags["Compression"].value, tags.get("Predictor")) == (8, None)
    assert open_volume(tmp_path / "out.tif").voxel_size == VOXEL_SIZE


def test_only_large_tiffs_are_bigtiff(tmp_path: Path, group: zarr.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    array = finest(group, "probability")
    monkeypatch.setattr("prompt_das.volumes.writers._LARGEST_TIFF", array.nbytes - 1)
    write_tiff(tmp_path / "out.tif", array, VOXEL_SIZE, lambda n: None)
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert tif.is_bigtiff
    assert open_volume(tmp_path / "out.tif").voxel_size == VOXEL_SIZE


def test_equal_volumes_give_equal_files(tmp_path: Path, values: np.ndarray) -> None:
    for name in ("a", "b"):
        group = create_ome_zarr(tmp_path / name, SHAPE, ("probability",), VOXEL_SIZE, ABOUT)
        finest(group, "probability")[:] = values
        write_hdf5(tmp_path / f"{name}.h5", {"p": finest(group, "probability")}, None, ABOUT, lambda n: None)
        write_tiff(tmp_path / f"{name}.tif", finest(group, "probability"), None, lambda n: None)
    for ending in ("h5", "tif"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
