"""Copies of arrays as HDF5 and TIFF, slice by slice; :mod:`prompt_das.volumes.ome_zarr` has the arrays.

Nothing in them depends on the time or the machine, so equal inputs give equal files. Z, H, W: slices, height and width
of a volume, in voxels. Voxel sizes are (z, y, x) in nanometers.
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

_CHUNK = 1024  # pixels
_LARGEST_TIFF = 0xF000_0000  # bytes before compression, which may add some to noise; offsets have 32 bits

Progress = Callable[[int], object]


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
    """Copy an array slice by slice into a multi-page TIFF (Deflate; BigTIFF only if it is larger than 4 GB).

    It is described as ImageJ's own stacks are, so Fiji shows it at its size, the distance of slices included.
    """

    def pages() -> Iterator[np.ndarray]:
        for one in _slices(array):
            on(1)
            yield one

    depth = array.shape[0]
    description = ["ImageJ=1.53t", f"images={depth}", f"slices={depth}", "loop=false"]
    resolution: dict[str, Any] = {}
    if voxel_size is not None:
        z, y, x = voxel_size
        resolution = {"resolution": (1 / x, 1 / y), "resolutionunit": "NONE"}
        description += ["unit=nm", f"spacing={z}"]
    tifffile.imwrite(
        path,
        pages(),
        shape=array.shape,
        dtype=array.dtype,
        bigtiff=array.nbytes > _LARGEST_TIFF,
        photometric="minisblack",
        compression="zlib",
        predictor=False,  # ImageJ ignores it where it reads Deflate, and shows differences of pixels
        rowsperstrip=min(_CHUNK // 4, array.shape[1]),
        description="\n".join(description) + "\n",
        metadata=None,
        **resolution,
    )


def _slices(array: zarr.Array) -> Iterator[np.ndarray]:
    for z in range(array.shape[0]):
        yield np.asarray(array[z])
