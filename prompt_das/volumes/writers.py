"""Results on disk: OME-Zarr that is filled slice by slice, and copies of it as TIFF or HDF5.

Z, H, W: slices, height and width of a volume, in voxels. Voxel sizes are (z, y, x) in nanometres.

The OME-Zarr (NGFF 0.4, Zarr format 2: what today's viewers all read)

    probability          uint8 (Z, H, W), 255 is 1
    density              uint8 (Z, H, W), 255 is 1
    labels/instances/0   ids (Z, H, W), 0 is background
    .zattrs              multiscales of the arrays; `prompt_das`: the image that it was made from, and the settings

holds nothing that depends on the time or the machine, so equal inputs give equal files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_das.volumes.voxel_size import VoxelSize

import h5py
import numpy as np
import tifffile
import zarr

INSTANCES = "labels/instances/0"
_CHUNK = 1024  # pixels; each slice has chunks of its own, so that slices can be written at the same time
_NGFF = "0.4"

Progress = Callable[[int], object]
Origin = tuple[int, int, int]


def create_ome_zarr(
    path: Path,
    shape: tuple[int, int, int],
    names: tuple[str, ...],
    voxel_size: VoxelSize | None,
    about: dict[str, Any],
    dtype: Any = np.uint8,
    origin: Origin = (0, 0, 0),
) -> zarr.Group:
    """A new OME-Zarr with arrays of the given names, all zero, and what it is ``about``.

    ``origin``: the voxel (z, y, x) of a larger volume that is the first one here, which the metadata will say.
    """
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name in names:
        _create_array(group, name, shape, dtype)
    group.attrs["multiscales"] = [_multiscale(name, name, voxel_size, origin) for name in names]
    group.attrs["prompt_das"] = about
    return group


def add_instances(
    group: zarr.Group,
    shape: tuple[int, int, int],
    count: int,
    voxel_size: VoxelSize | None,
    origin: Origin = (0, 0, 0),
) -> zarr.Array:
    """The array of instance ids, of a type that holds ``count`` of them; one that is there already is replaced."""
    labels = group.require_group("labels")
    labels.attrs["labels"] = ["instances"]
    image = labels.create_group("instances", overwrite=True)
    image.attrs["multiscales"] = [_multiscale("instances", "0", voxel_size, origin)]
    image.attrs["image-label"] = {"version": _NGFF, "source": {"image": "../../"}}
    # By name: of NumPy's two types called uint64, Zarr knows one.
    return _create_array(image, "0", shape, np.promote_types(np.uint16, np.min_scalar_type(count)).name)


def write_hdf5(
    path: Path, arrays: Mapping[str, zarr.Array], voxel_size: VoxelSize | None, about: dict[str, Any], on: Progress
) -> None:
    """Copy arrays slice by slice into one HDF5 file.

    Args:
        arrays: by their names in the file.
        voxel_size: goes to the attribute `element_size_um` (z, y, x), which ilastik and Fiji read.
        about: goes to the attribute `prompt_das`, as JSON.
        on: called with 1 for each slice.
    """
    with h5py.File(path, "w") as file:
        file.attrs["prompt_das"] = json.dumps(about)
        for name, array in arrays.items():
            chunks = (1, *(min(_CHUNK, side) for side in array.shape[1:]))
            copy = file.create_dataset(name, array.shape, array.dtype, chunks=chunks, compression="gzip", shuffle=True)
            if voxel_size is not None:
                copy.attrs["element_size_um"] = np.array(voxel_size) / 1000
            for z, one in enumerate(_slices(array)):
                copy[z] = one
                on(1)


def write_tiff(path: Path, array: zarr.Array, voxel_size: VoxelSize | None, on: Progress) -> None:
    """Copy an array slice by slice into a multi-page TIFF (BigTIFF, Deflate), with the pixel size as its resolution."""

    def pages() -> Iterator[np.ndarray]:
        for one in _slices(array):
            on(1)
            yield one

    resolution: dict[str, Any] = {}
    metadata: dict[str, Any] = {"axes": "ZYX"}
    if voxel_size is not None:
        z, y, x = voxel_size
        resolution = {"resolution": (1e7 / x, 1e7 / y), "resolutionunit": "CENTIMETER"}
        metadata |= {"PhysicalSizeX": x, "PhysicalSizeY": y, "PhysicalSizeZ": z, "PhysicalSizeUnit": "nm"}
    tifffile.imwrite(
        path,
        pages(),
        shape=array.shape,
        dtype=array.dtype,
        bigtiff=True,
        photometric="minisblack",
        compression="zlib",
        predictor=True,
        rowsperstrip=min(_CHUNK // 4, array.shape[1]),
        metadata=metadata,
        **resolution,
    )


def _slices(array: zarr.Array) -> Iterator[np.ndarray]:
    for z in range(array.shape[0]):
        yield np.asarray(array[z])


def _create_array(group: zarr.Group, name: str, shape: tuple[int, int, int], dtype: Any) -> zarr.Array:
    chunks = (1, *(min(_CHUNK, side) for side in shape[1:]))
    key: Any = {"name": "v2", "separator": "/"}
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, fill_value=0, chunk_key_encoding=key)


def _multiscale(name: str, path: str, voxel_size: VoxelSize | None, origin: Origin) -> dict[str, Any]:
    """NGFF metadata of one array at one resolution, whose first voxel is the voxel ``origin`` of a larger volume."""
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    scale = [float(size) for size in voxel_size or (1, 1, 1)]
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(origin):
        translation = [index * size for index, size in zip(origin, scale, strict=True)]
        transformations.append({"type": "translation", "translation": translation})
    return {
        "version": _NGFF,
        "name": name,
        "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
        "datasets": [{"path": path, "coordinateTransformations": transformations}],
    }
