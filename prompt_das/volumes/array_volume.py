"""An array of a file that may hold several (HDF5, Zarr) as a volume."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prompt_das.volumes.address import Location
from prompt_das.volumes.memory_limit import require_memory
from prompt_das.volumes.volume import Box, Volume, VolumeError
from prompt_das.volumes.voxel_size import VoxelSize, of_attributes

import numpy as np


class ArrayVolume(Volume):
    """An array whose axes are (z, y, x) or (y, x), or named; further axes must have length 1 and are ignored.

    File names of the slices, where they are known, are in the array's attribute `slice_names`.
    """

    axes: str | None = None  # a letter an axis, where the file names them

    def __init__(self, path: Location, dataset: str | None):
        super().__init__(path, dataset)
        array = self._handle()
        self._order = _order_of_axes(self.axes, array.shape, path)
        z, y, x = self._order
        self.shape = (int(array.shape[z]) if z is not None else 1, int(array.shape[y]), int(array.shape[x]))
        self.dtype = np.dtype(array.dtype)
        require_memory(math.prod(array.chunks or ()) * self.dtype.itemsize)  # chunks are decoded as a whole
        names = array.attrs.get("slice_names")
        if names is not None:
            self.slice_names = [str(name) for name in names]
            if len(self.slice_names) != len(self):
                raise VolumeError(f"{path}: {len(self.slice_names)} slice_names for {len(self)} slices")

    def _stored_voxel_size(self) -> VoxelSize | None:
        return of_attributes(self._handle().attrs)

    def _region(self, z: int, box: Box) -> list[tuple[int, int]]:
        """[start, stop) along each axis of the array for a box of slice z."""
        y0, x0, y1, x1 = box
        region = [(0, 1)] * self._handle().ndim
        z_axis, y_axis, x_axis = self._order
        region[y_axis], region[x_axis] = (y0, y1), (x0, x1)
        if z_axis is not None:
            region[z_axis] = (z, z + 1)
        return region

    def _read(self, z: int, box: Box) -> np.ndarray:
        _, y_axis, x_axis = self._order
        in_slice = (y_axis, x_axis)
        region = self._region(z, box)
        index = [slice(*span) if axis in in_slice else span[0] for axis, span in enumerate(region)]
        array = np.asarray(self._handle()[tuple(index)])
        return array if y_axis < x_axis else np.ascontiguousarray(array.T)


def three_dimensions(shape: Sequence[int], path: Location) -> tuple[int, int, int]:
    """(Z, H, W) of an array whose last axes are (z, y, x) or (y, x). Raises VolumeError for others longer than 1."""
    z, y, x = _order_of_axes(None, shape, path)
    return int(shape[z]) if z is not None else 1, int(shape[y]), int(shape[x])


def _order_of_axes(axes: str | None, shape: Sequence[int], path: Location) -> tuple[int | None, int, int]:
    """Which axes of the array are z, y and x; z is None for a single slice."""
    count = len(shape)
    if axes is None:
        if count < 2 or any(n != 1 for n in shape[:-3]):
            raise VolumeError(f"{path}: shape {tuple(shape)} is not (slices, height, width)")
        return (None if count == 2 else count - 3), count - 2, count - 1
    if len(axes) != count or not {"y", "x"} <= set(axes) or len(set(axes)) != count:
        raise VolumeError(f"{path}: its axes are named {axes!r}, its shape is {tuple(shape)}; expected z, y and x")
    other = [axis for axis, n in zip(axes, shape, strict=True) if axis not in "zyx" and n != 1]
    if other:
        raise VolumeError(
            f"{path}: axes {axes} of shape {tuple(shape)}: {shape[axes.index(other[0])]} along {other[0]!r}, and only "
            "z, y and x may be longer than 1; save the channel or time that you mean as an array of its own"
        )
    return (axes.index("z") if "z" in axes else None), axes.index("y"), axes.index("x")


def only_array(names: list[str], path: Location) -> str:
    """The name of the one array in a file. Raises VolumeError where there are several, or none."""
    if len(names) != 1:
        raise VolumeError(f"{path} holds the arrays {names}: say which one (`images_dataset` or `labels_dataset`)")
    return names[0]
