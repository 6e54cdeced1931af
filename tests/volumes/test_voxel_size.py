"""The voxel size of each format's own metadata; nothing where they cannot be true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.volumes.ome_zarr import create_ome_zarr, finest
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.voxel_size import plausible
from prompt_das.volumes.writers import write_hdf5, write_tiff

import h5py
import numpy as np
import pytest
import tifffile
import zarr

STACK = np.zeros((3, 16, 20), np.uint8)
SIZE = (30.0, 8.0, 8.0)  # nm


def tiff(path: Path, array: np.ndarray = STACK, **options: Any) -> Any:
    tifffile.imwrite(path / "scan.tif", array, photometric="minisblack", **options)
    return open_volume(path / "scan.tif").voxel_size


@pytest.mark.parametrize(
    ("unit", "spacing", "per_unit"),
    [("um", 0.03, 125), ("micron", 0.03, 125), ("\\u00B5m", 0.03, 125), ("nm", 30, 0.125), ("mm", 3e-5, 125000)],
)
def test_imagej(tmp_path: Path, unit: str, spacing: float, per_unit: float) -> None:
    metadata = {"unit": unit, "spacing": spacing, "axes": "ZYX"}
    size = tiff(tmp_path, imagej=True, resolution=(per_unit, per_unit), metadata=metadata)
    assert size == pytest.approx(SIZE)


@pytest.mark.parametrize("metadata", [{"spacing": 2.0}, {"unit": "pixel", "spacing": 1.0}, {"unit": "um"}])
def test_imagej_without_units_or_distance_of_slices(tmp_path: Path, metadata: dict[str, Any]) -> None:
    assert tiff(tmp_path, imagej=True, resolution=(125, 125), metadata={**metadata, "axes": "ZYX"}) is None


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1), ("µm", 1e-3), ("mm", 1e-6), ("Å", 10)])
def test_ome_tiff(tmp_path: Path, unit: str, factor: float) -> None:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, side in zip("ZYX", SIZE, strict=True):
        metadata |= {f"PhysicalSize{axis}": side * factor, f"PhysicalSize{axis}Unit": unit}
    assert tiff(tmp_path, ome=True, metadata=metadata) == pytest.approx(SIZE)


def test_ome_sizes_without_a_unit_are_micrometers(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.008, "PhysicalSizeY": 0.008, "PhysicalSizeZ": 0.03}
    assert tiff(tmp_path, ome=True, metadata=metadata) == pytest.approx(SIZE)


def test_resolution_tags_do_for_a_single_slice(tmp_path: Path) -> None:
    tags = {"resolution": (1.25e6, 1.25e6), "resolutionunit": "CENTIMETER", "metadata": None}
    assert tiff(tmp_path, STACK[0], **tags) == pytest.approx((8, 8, 8))
    assert tiff(tmp_path, **tags) is None  # how far are its slices apart?
    assert tiff(tmp_path, STACK[0], resolution=(72, 72), resolutionunit="INCH") is None  # a program's default
    assert tiff(tmp_path) is None


@pytest.mark.parametrize("unit", ["nanometer", "micrometer", "angstrom"])
def test_ome_zarr(tmp_path: Path, unit: str) -> None:
    """The transformation of the whole image multiplies that of its finest array; axes may be in any order."""
    factor = {"nanometer": 1, "micrometer": 1e-3, "angstrom": 10}[unit]
    group = zarr.open_group(str(tmp_path / "scan.zarr"), mode="w", zarr_format=2)
    for name, side in (("0", 16), ("1", 8)):
        group.create_array(name, shape=(1, 3, side, side), dtype="u1")
    group.attrs["multiscales"] = [
        {
            "axes": [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": unit} for a in "zyx")],
            "coordinateTransformations": [{"type": "scale", "scale": [1, factor, factor, factor]}],
            "datasets": [
                {
                    "path": name,
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [1, 30, side, side]},
                        {"type": "translation", "translation": [0, 1, 2, 3]},
                    ],
                }
                for name, side in (("0", 8), ("1", 16))
            ],
        }
    ]
    assert open_volume(tmp_path / "scan.zarr").voxel_size == pytest.approx(SIZE)
    assert open_volume(tmp_path / "scan.zarr", "1").voxel_size == pytest.approx((30, 16, 16))


@pytest.mark.parametrize(
    "attributes",
    [
        {"resolution": [30.0, 8.0, 8.0]},
        {"resolution": [30, 8, 8], "units": ["nm"] * 3},
        {"resolution": [0.03, 0.008, 0.008], "units": "um"},
        {"element_size_um": [0.03, 0.008, 0.008]},
        {"element_size_um": [0.03, 0.008, 0.008], "resolution": [1, 1, 1]},
    ],
)
def test_attributes_of_arrays(tmp_path: Path, attributes: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("images", data=STACK).attrs.update(attributes)
    assert open_volume(tmp_path / "scan.h5").voxel_size == pytest.approx(SIZE)
    zarr.create_array(str(tmp_path / "scan.zarr"), data=STACK, attributes=attributes)
    assert open_volume(tmp_path / "scan.zarr").voxel_size == pytest.approx(SIZE)


@pytest.mark.parametrize(
    "stored", [[0.0, 8, 8], [-30, 8, 8], [np.nan, 8, 8], [np.inf, 8, 8], [8, 8], "30 8 8", 8.0, [0.03, 0.008, 0.008]]
)
def test_absurd_sizes_are_not_known_and_the_volume_opens(tmp_path: Path, stored: Any) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("images", data=STACK).attrs["resolution"] = stored
    volume = open_volume(tmp_path / "scan.h5")
    assert volume.voxel_size is None
    assert volume.read(0).shape == (16, 20)


def test_what_this_package_writes_it_reads_again(tmp_path: Path) -> None:
    group = create_ome_zarr(tmp_path / "a.zarr", STACK.shape, ("probability",), SIZE, {})
    array = finest(group, "probability")
    write_hdf5(tmp_path / "a.h5", {"probability": array}, SIZE, {}, lambda _: None)
    write_tiff(tmp_path / "a.tif", array, SIZE, lambda _: None)
    for name in ("a.zarr", "a.h5", "a.tif"):
        assert open_volume(tmp_path / name).voxel_size == pytest.approx(SIZE), name
    create_ome_zarr(tmp_path / "b.zarr", STACK.shape, ("probability",), None, {})
    assert open_volume(tmp_path / "b.zarr").voxel_size is None


def test_a_folder_of_pictures_says_nothing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "0.tif", STACK[0])
    tifffile.imwrite(tmp_path / "1.tif", STACK[0])
    assert open_volume(tmp_path).voxel_size is None


def test_only_true_sizes_are_plausible() -> None:
    assert plausible((30, 8, 8)) == SIZE
    assert plausible((1e6, 8, 8)) is None
    assert plausible(None) is None
