"""The voxel of each instance that is nearest to its centroid: a point inside, which the centroid of a bent one is not.

Of several the first in raster order. Voxels have indices (z, y, x) from 0.
"""

from __future__ import annotations

import math

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

    def add_slice(self, z: int, labels: np.ndarray) -> None:
        """Take the voxels of a slice (H, W), whose labels count from 1. Slices must come in their order."""
        y, x = np.nonzero(labels)
        index = labels[y, x].astype(np.int64) - 1
        voxels = np.stack([np.full_like(y, z), y, x], axis=-1)
        distance = ((voxels - self._centroids[index]) ** 2).sum(-1)
        before = self.distance.copy()
        np.minimum.at(self.distance, index, distance)
        nearest = np.flatnonzero((distance == self.distance[index]) & (distance < before[index]))
        # Of repeated indices numpy keeps the last assignment: going backwards that is the first voxel.
        self.voxels[index[nearest[::-1]]] = voxels[nearest[::-1]]


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
