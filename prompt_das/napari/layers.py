"""Layers of a viewer as volumes, and positions between layers and slices.

Z, H, W: slices, height and width of a volume. A position is (z, y, x) in a volume's voxels as napari counts them: the
center of the first one is (0, 0, 0). A point is (x, y) in pixels of a slice as the package counts them: the center of
the first one is (0.5, 0.5). A click is (x, y, label), label 1 positive, 0 negative.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from prompt_das.ops.points import as_clicks
from prompt_das.volumes.intensity import estimate_intensity_range
from prompt_das.volumes.volume import Box, Volume

import numpy as np

Transform = Callable[[Any], Any]
NO_POINTS = np.zeros((0, 2), np.float32)
NO_CLICKS = np.zeros((0, 3), np.float32)


class LayerVolume(Volume):
    """What an image layer shows, in memory or lazy (dask, Zarr): any array that gives a slice when it is indexed."""

    def __init__(self, array: Any, name: str):
        """
        Args:
            array: (Z, H, W) or (H, W).
            name: of the layer, for messages.

        Raises:
            ValueError: colors, or another number of dimensions.
        """
        super().__init__(Path(name))
        if array.ndim not in (2, 3):
            raise ValueError(
                f"layer '{name}' has {array.ndim} dimensions {tuple(array.shape)}; expected (slices, rows, columns) or "
                "(rows, columns). Split it: right click on the layer, 'Split Stack'"
            )
        if array.ndim == 3 and array.shape[-1] in (3, 4):
            raise ValueError(
                f"layer '{name}' has shape {tuple(array.shape)}, which looks like colors. Electron microscopy is "
                "gray; take one channel, data[..., 0] for example"
            )
        self.array = array
        self.shape = array.shape if array.ndim == 3 else (1, *array.shape)
        self.dtype = np.dtype(array.dtype)

    @cached_property
    def intensity_range(self) -> tuple[float, float] | None:
        """Gray values that become black and white, as training estimates them; None for 8 bit. Reads 8 slices."""
        return None if self.dtype == np.uint8 else estimate_intensity_range(self)

    def _open(self) -> Any:
        return self.array

    def _read(self, z: int, box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        leading = (z,) if self.array.ndim == 3 else ()
        return np.asarray(self.array[(*leading, slice(y0, y1), slice(x0, x1))])


def affine_of(transform: Transform, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """(A, b) with transform(p) = A p + b, for an affine transform of one position, such as ``layer.world_to_data``."""
    offset = np.asarray(transform(np.zeros(ndim)), dtype=float)
    columns = [np.asarray(transform(unit), dtype=float) - offset for unit in np.eye(ndim)]
    return np.stack(columns, axis=1), offset


def move_positions(positions: np.ndarray, to_world: Transform, to_data: Transform, ndim: int) -> np.ndarray:
    """Positions (N, ndim) of one layer -> of another."""
    matrix, offset = affine_of(lambda position: to_data(to_world(position)), ndim)
    return np.asarray(positions, dtype=float).reshape(-1, ndim) @ matrix.T + offset


def sort_clicks(positions: np.ndarray, labels: np.ndarray, shape: Sequence[int]) -> tuple[dict[int, np.ndarray], int]:
    """Positions (N, 3) with labels (N,) -> the clicks (N', 3) float32 of each slice that has some, and how many lie
    outside the volume.

    The order is kept. A position belongs to the slice that it is nearest to.
    """
    depth, height, width = shape
    z = np.rint(positions[:, 0])
    points = to_points(positions)
    inside = (z >= 0) & (z < depth) & ((points >= 0) & (points < (width, height))).all(axis=1)
    slices = np.unique(z[inside]).astype(int)
    clicks = as_clicks(points, labels)
    return {int(one): clicks[inside & (z == one)] for one in slices}, int((~inside).sum())


def with_slice(positions: np.ndarray) -> np.ndarray:
    """Positions of a layer of 2 or 3 dimensions (N, 2 or 3) -> (N, 3); an image that is no stack is slice 0."""
    positions = np.asarray(positions, dtype=float)
    return np.pad(positions, ((0, 0), (3 - positions.shape[1], 0)))


def to_points(positions: np.ndarray) -> np.ndarray:
    """Positions (N, 3) -> points (N, 2) float32, whatever their slice."""
    return (positions[:, :0:-1] + 0.5).astype(np.float32)


def to_positions(points: np.ndarray, z: int) -> np.ndarray:
    """Points (N, 2) of slice z -> positions (N, 3)."""
    points = np.asarray(points, dtype=float).reshape(-1, 2) - 0.5
    return np.column_stack([np.full(len(points), float(z)), points[:, ::-1]])


def voxel_size_of(layer: Any, *, flat: bool = False) -> tuple[float, float, float] | None:
    """(z, y, x) in nm; None if the layer's units are no lengths, or it has no z.

    With ``flat`` a layer without z is as thick as its pixels are high.
    """
    if len(layer.units) not in ((2, 3) if flat else (3,)):
        return None
    if not all(unit.is_compatible_with("nm") for unit in layer.units):
        return None
    sides = [float((size * unit).to("nm").magnitude) for size, unit in zip(layer.scale, layer.units, strict=True)]
    return (sides[0], sides[-2], sides[-1])


def empty_labels(shape: Sequence[int]) -> np.ndarray:
    """Zeros, int32, that take room (on the disk, without a name) only where something is written to them."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.int32, "w+", shape=tuple(shape))
