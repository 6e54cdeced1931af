"""The voxel of each instance that is nearest to its centroid: a point inside, which the centroid of a bent one is not.

Of several the first in raster order. Voxels have indices (z, y, x) from 0.
"""

from __future__ import annotations

import math

from prompt_das.ops.runs import Runs

import numpy as np


class NearestVoxels:
    """The voxels of n components that are nearest to given places, slice by slice.

    Args:
        centroids: (n, 3) places z, y, x.

    Attributes:
        voxels: (n, 3) int64.
        distance: (n,) squared distances of these; infinite where there is none yet.
    """

    def __init__(self, centroids: np.ndarray) -> None:
        self.voxels = np.zeros(centroids.shape, np.int64)
        self.distance = np.full(len(centroids), math.inf)
        self._centroids = centroids

    def add_slice(self, z: int, runs: Runs, width: int) -> None:
        """Take the voxels of a slice, from its runs, whose labels count from 1. Slices must come in their order.

        Args:
            width: of the slice.
        """
        index, (first_y, first_x) = runs.label - 1, np.divmod(runs.start, width)
        center_y, center_x = self._centroids[index, 1], self._centroids[index, 2]
        # The nearest voxel of a run is on one side of the centroid or the other: the first of them, if both are.
        sides = np.floor(center_x)[:, None].astype(np.int64) + np.array([0, 1])
        x = sides.clip(first_x[:, None], (first_x + runs.length - 1)[:, None])  # (r, 2)
        off_z, off_y = z - self._centroids[index, 0], first_y - center_y
        distance = (off_z**2 + off_y**2)[:, None] + (x - center_x[:, None]) ** 2
        side = distance.argmin(axis=1)
        every = np.arange(len(x))
        distance, x = distance[every, side], x[every, side]
        before = self.distance.copy()
        np.minimum.at(self.distance, index, distance)
        nearest = np.flatnonzero((distance == self.distance[index]) & (distance < before[index]))[::-1]
        # Of repeated indices numpy keeps the last assignment: going backwards that is the first voxel.
        self.voxels[index[nearest]] = np.stack([np.full_like(x, z), first_y, x], axis=-1)[nearest]


def nearest_of_parts(voxels: np.ndarray, distance: np.ndarray, instance: np.ndarray, count: int) -> np.ndarray:
    """The nearest voxels (count, 3) of instances from those of their parts.

    Args:
        voxels: (k, 3) of the parts.
        distance: (k,) to the place that their instance has.
        instance: (k,) index of it; -1: none. Each instance has a part.
    """
    order = np.lexsort((*voxels.T[::-1], distance, instance))
    order = order[instance[order] >= 0]
    _, first = np.unique(instance[order], return_index=True)
    result: np.ndarray = voxels[order[first]].reshape(count, 3)
    return result
