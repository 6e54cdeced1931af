"""Coarser levels of a volume, made slice by slice from the one before: each has half the pixels in y and x.

z is halved, too, once a voxel is about as thick as it is wide: from 30 x 8 x 8 nm to 30 x 16 x 16, 30 x 32 x 32 and
60 x 64 x 64. Where the voxel size is not known, z stays as it is.

Shapes: Z, H, W slices, height and width of a volume; k voxels that become one (1 to 8), in raster order. Of an odd side
the last voxel stands alone, so a coarser side is (side + 1) // 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np

_COARSEST = 256  # pixels: a level whose slices have no longer side is the last
_AS_THICK_AS_WIDE = math.sqrt(2)  # at most; halving z then leaves it at least 1 / sqrt(2) as thick

Reduction = Callable[[np.ndarray], np.ndarray]  # (k, h, w) -> (h, w)


class Level(NamedTuple):
    """Size (Z, H, W) of a level, and how many voxels of the finest one each of its voxels has along z, y and x."""

    shape: tuple[int, ...]
    factors: tuple[int, ...]

    def step_to(self, coarser: Level) -> tuple[int, ...]:
        """1 or 2 along z, y and x."""
        return tuple(b // a for a, b in zip(self.factors, coarser.factors, strict=True))


def plan_levels(shape: tuple[int, ...], voxel_size: VoxelSize | None) -> list[Level]:
    """All levels of a volume (Z, H, W), the finest first; voxel sizes are (z, y, x)."""
    levels = [Level(shape, (1, 1, 1))]
    while max(levels[-1].shape[1:]) > _COARSEST:
        before = levels[-1]
        halved = [False, True, True]
        if voxel_size is not None:
            z, y, x = (size * factor for size, factor in zip(voxel_size, before.factors, strict=True))
            halved[0] = z < _AS_THICK_AS_WIDE * math.sqrt(y * x)
        steps = [2 if half and side > 1 else 1 for half, side in zip(halved, before.shape, strict=True)]
        levels.append(
            Level(
                tuple(-(-side // step) for side, step in zip(before.shape, steps, strict=True)),
                tuple(factor * step for factor, step in zip(before.factors, steps, strict=True)),
            )
        )
    return levels


def coarsen(slices: Iterable[np.ndarray], step: tuple[int, ...], reduce: Reduction) -> Iterator[np.ndarray]:
    """Slices (H, W) of a volume in their order -> those of the next level. One or two slices are held at a time."""
    slices = iter(slices)
    while together := list(itertools.islice(slices, step[0])):
        yield reduce(np.stack([part for one in together for part in _strided(one, step[1:])]))


def mean(voxels: np.ndarray) -> np.ndarray:
    """The mean of uint8 (k, h, w), rounded half up."""
    count = len(voxels)
    return ((voxels.sum(axis=0, dtype=np.uint16) + count // 2) // count).astype(np.uint8)


def mode(voxels: np.ndarray) -> np.ndarray:
    """The most frequent label of (k, h, w), the first of equally frequent ones."""
    result = voxels[0].copy()
    mixed = np.any(voxels[1:] != result, axis=0)  # few: windows at borders of instances
    some = voxels[:, mixed]
    frequency = np.stack([np.count_nonzero(some == label, axis=0) for label in some])
    result[mixed] = np.take_along_axis(some, frequency.argmax(axis=0)[None], axis=0)[0]
    return result


def _strided(one: np.ndarray, step: tuple[int, ...]) -> list[np.ndarray]:
    """The first, second, ... pixels of the windows of a slice, each as an image."""
    padding = [(0, -side % by) for side, by in zip(one.shape, step, strict=True)]
    if any(after for _, after in padding):
        one = np.pad(one, padding, mode="edge")
    return [one[y :: step[0], x :: step[1]] for y in range(step[0]) for x in range(step[1])]
