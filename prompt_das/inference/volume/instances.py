"""From the stored probability of a volume to stored instances.

Memory is bounded by the size of a block, see :mod:`prompt_das.inference.volume.linking`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

from prompt_das.inference.volume.center_instances import CenterRule, SliceParts, link_slices, split_slice
from prompt_das.inference.volume.linking import (
    Block,
    BlockComponents,
    Components,
    label_block,
    link_blocks,
    measure_block,
    measure_labels,
    split_into_blocks,
)
from prompt_das.inference.volume.progress import SliceBar
from prompt_das.volumes.ome_zarr import add_instances, finest
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np
import zarr


def label_instances(
    group: Any,
    voxel_size: VoxelSize | None,
    linked: bool,
    threshold: float,
    min_size: int,
    progress: bool = True,
    centers: CenterRule | None = None,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> tuple[Components, np.ndarray]:
    """Turn the stored probability into stored instance ids.

    Returns the n instances, and for each (n, 3) the z, y, x of its voxel nearest to its centroid, the first in raster
    order of several: a point that lies inside, which a centroid of a bent instance may not.

    ``group`` is a Zarr group as `prompt_das.volumes.ome_zarr.create_ome_zarr` makes it. Both passes over the volume are
    repeated if the process is killed: they take seconds where the network takes minutes.

    ``centers``: how slices are split; None: instances are connected components. ``origin``: where the arrays lie in a
    larger volume, which the metadata of the labels will say; what is returned counts from the arrays' first voxel.
    """
    shape = finest(group, "probability").shape
    lowest = math.floor(255 * threshold) + 1
    labeling: _Labeling = (
        _ComponentLabeling(group, lowest, linked)
        if centers is None
        else _CenterLabeling(group, lowest, linked, centers)
    )
    with SliceBar("Finding instances", shape[0], 0, progress) as bar:
        measured = list(labeling.measure(bar))
    ids, instances = link_blocks(measured, min_size)
    points = _NearestVoxels(instances.centroid)
    labels = add_instances(group, shape, len(instances), voxel_size, origin)
    with SliceBar("Writing instances", shape[0], 0, progress) as bar:
        for block, id_of in zip(labeling.blocks, ids, strict=True):
            in_block = labeling.label(block)
            id_of = id_of.astype(labels.dtype)
            for z in range(block.start, block.stop):
                labels_of_slice = id_of[in_block[z - block.start]]
                labels[z] = labels_of_slice
                points.add_slice(z, labels_of_slice)
                bar.slice_done()
    return instances, points.voxels


class _Labeling(Protocol):
    """How blocks are labeled: the same labels at each call, (D, H, W) 0 ... n."""

    blocks: list[Block]

    def measure(self, bar: SliceBar) -> Iterator[BlockComponents]: ...

    def label(self, block: Block) -> np.ndarray: ...


class _ComponentLabeling:
    """Connected components of blocks, or of slices."""

    def __init__(self, group: Any, lowest: int, linked: bool) -> None:
        self._probability, self._lowest = finest(group, "probability"), lowest
        self.blocks = split_into_blocks(self._probability.shape, linked=linked)

    def measure(self, bar: SliceBar) -> Iterator[BlockComponents]:
        for block in self.blocks:
            stored = _read_block(self._probability, block)
            yield measure_block(stored >= self._lowest, stored, block)
            bar.slice_done(block.stop - block.start)

    def label(self, block: Block) -> np.ndarray:
        return label_block(_read_block(self._probability, block) >= self._lowest)[0]


class _CenterLabeling:
    """Slices that are split at centers, and linked by what they share with the next."""

    def __init__(self, group: Any, lowest: int, linked: bool, rule: CenterRule) -> None:
        self.blocks = split_into_blocks(finest(group, "probability").shape, linked=False)
        self._group, self._lowest, self._linked, self._rule = group, lowest, linked, rule

    def measure(self, bar: SliceBar) -> Iterator[BlockComponents]:
        none = np.zeros(0, np.int64)
        waiting: tuple[Components, np.ndarray] | None = None  # numbers and lower links of the slice before
        before: SliceParts | None = None
        for block in self.blocks:
            parts, stored = self._split(block)
            links = link_slices(before, parts) if before is not None and self._linked else (none, none)
            if waiting is not None:
                yield BlockComponents(*waiting, top=links[0])
            count = len(parts.component) - 1
            waiting = measure_labels(parts.labels[None], count, stored[None], block), links[1]
            before = parts
            bar.slice_done()
        if waiting is not None:
            yield BlockComponents(*waiting, top=none)

    def label(self, block: Block) -> np.ndarray:
        return self._split(block)[0].labels[None]

    def _split(self, block: Block) -> tuple[SliceParts, np.ndarray]:
        return split_slice(self._group, block.start, self._rule, self._lowest, linked=self._linked)


class _NearestVoxels:
    """The voxel of each instance that is nearest to its centroid, slice by slice."""

    def __init__(self, centroids: np.ndarray) -> None:
        self.voxels = np.zeros(centroids.shape, np.int64)
        self._centroids = centroids
        self._distance = np.full(len(centroids), math.inf)

    def add_slice(self, z: int, labels: np.ndarray) -> None:
        """Take the voxels of a slice (H, W), whose ids count from 1. Slices must come in their order."""
        y, x = np.nonzero(labels)
        index = labels[y, x].astype(np.int64) - 1
        voxels = np.stack([np.full_like(y, z), y, x], axis=-1)
        distance = ((voxels - self._centroids[index]) ** 2).sum(-1)
        before = self._distance.copy()
        np.minimum.at(self._distance, index, distance)
        nearest = np.flatnonzero((distance == self._distance[index]) & (distance < before[index]))
        # Of repeated indices numpy keeps the last assignment: going backwards that is the first voxel.
        self.voxels[index[nearest[::-1]]] = voxels[nearest[::-1]]


def _read_block(array: zarr.Array, block: Block) -> np.ndarray:
    return np.asarray(array[block.start : block.end])
