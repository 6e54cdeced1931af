"""Instances of a volume that is too large for memory: block by block, exactly as if it were labeled at once.

A block is some consecutive slices. Neighboring blocks share one slice: components of both that share a voxel there
are one instance. Only a few numbers are kept of each component (100 bytes). A block can be cut into thinner ones in its
turn, see :mod:`prompt_das.inference.volume.measured_block`. Each slice as a block of its own, without shared slices,
gives the instances of 2-D slices.

Two voxels are neighbors if they touch at a face, an edge or a corner (26 neighbors); in one slice that leaves 8.

Shapes: Z, H, W slices, height and width of the volume, in voxels; D slices of a block; n components. Voxels have
indices (z, y, x) from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from prompt_das.ops.connected_components import connected_components, first_pixels
from prompt_das.ops.runs import Runs, find_runs

import cc3d
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Block:
    """Slices ``start`` ... ``stop - 1``, and ``end - stop`` more (0 or 1) that belong to the next block as well."""

    start: int
    stop: int
    end: int


@dataclass(frozen=True)
class Components:
    """Numbers of n components that are enough to put those of blocks together.

    Attributes:
        first: (n,) index z H W + y W + x of the first voxel.
        size: (n,) voxels.
        low, high: (n, 3) bounding box, half open.
        index_sum: (n, 3) sum of z, y, x over the voxels.
        probability_sum: (n,) sum of the foreground probability over the voxels.
    """

    first: np.ndarray
    size: np.ndarray
    low: np.ndarray
    high: np.ndarray
    index_sum: np.ndarray
    probability_sum: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, which: np.ndarray | slice) -> Components:
        return Components(*(getattr(self, field.name)[which] for field in fields(self)))

    def moved(self, offset: tuple[int, int, int]) -> Components:
        """The same components with (z, y, x) added to where they lie; ``first`` stays an index of the arrays."""
        moved = {"low": self.low + offset, "high": self.high + offset}
        return replace(self, **moved, index_sum=self.index_sum + self.size[:, None] * np.array(offset))

    @property
    def centroid(self) -> np.ndarray:
        """(n, 3) mean z, y, x."""
        return self.index_sum / self.size[:, None]

    @property
    def cross_section(self) -> np.ndarray:
        """(n,) mean area in the slices that it reaches through, in pixels."""
        return self.size / (self.high - self.low)[:, 0]

    @property
    def probability(self) -> np.ndarray:
        """(n,) mean foreground probability."""
        return self.probability_sum / self.size


@dataclass(frozen=True)
class BlockComponents:
    """The components of a block, and the labels of those that go on below and above it.

    ``top`` of a block and ``bottom`` of the next are pairs: the same regions of the shared slice, in one order; or, of
    slices that are split at centers, the links of :mod:`prompt_das.inference.volume.center_instances`.
    """

    components: Components
    bottom: np.ndarray
    top: np.ndarray


def split_into_blocks(block: Block, slices: int, *, linked: bool) -> list[Block]:
    """Cut a block into blocks of at most ``slices`` slices, and the shared one where they are ``linked``.

    A whole volume is ``Block(0, Z, Z)``.
    """
    starts = range(block.start, block.stop, slices)
    return [Block(z, min(z + slices, block.stop), min(z + slices + linked, block.end)) for z in starts]


def label_block(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the 26-connected components of a block on its own: (D, H, W) mask -> (D, H, W) labels 0 ... n, and n.

    A single slice is labeled by OpenCV: cc3d 4.1.1 labels background pixels of 2-D masks, and raises an exception for
    some thin volumes, see docs/reports/cc3d-odd-width.md. It is right wherever every side is at least 2.
    """
    if len(mask) == 1:
        labels = connected_components(mask[0])[None]
        return labels, int(labels.max(initial=0))
    _, height, width = mask.shape
    thin = [(0, 0), (0, height == 1), (0, width == 1)]
    mask = np.pad(mask.astype(bool), thin) if 1 in (height, width) else np.ascontiguousarray(mask, dtype=bool)
    labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    return labels[:, :height, :width], count


def measure_block(mask: np.ndarray, probability: np.ndarray, block: Block) -> tuple[BlockComponents, Runs]:
    """Label a block and keep the numbers of its components. Voxels of the shared last slice count in the next block.

    Args:
        mask: (D, H, W) foreground of the slices ``block.start`` ... ``block.end - 1``.
        probability: (D, H, W), of any type.
        block: where it lies in the volume.

    Returns:
        the components, and the runs of their labels, see :func:`measure_runs`.
    """
    labels, count = label_block(mask)
    bottom = _labels_of_regions(labels[0])
    top = _labels_of_regions(labels[-1]) if block.end > block.stop else bottom[:0]
    components, runs = measure_runs(find_runs(labels[: block.stop - block.start]), count, probability, block)
    return BlockComponents(components, bottom, top), runs


def measure_runs(runs: Runs, count: int, probability: np.ndarray, block: Block) -> tuple[Components, Runs]:
    """Numbers of the components 1 ... ``count`` of a block, and its runs with indices of the volume.

    Args:
        runs: of the block (D, H, W) without its shared last slice.
        count: of its components.
        probability: (D, H, W), of any type.
        block: where it lies in the volume.
    """
    _, height, width = probability.shape
    values = probability.ravel()[runs.voxels()].astype(np.float64)
    sum_of_run = np.add.reduceat(values, np.cumsum(runs.length) - runs.length) if len(values) else values
    runs = runs.moved(block.start * height * width)
    which, length = runs.label - 1, runs.length
    row, x = np.divmod(runs.start, width)
    z, y = np.divmod(row, height)
    sums = (z * length, y * length, x * length + length * (length - 1) // 2)
    # Of repeated indices numpy keeps the last assignment: of runs in raster order backwards that is the first.
    first, low_z = np.full((2, count), _NEVER)
    high_z = np.zeros(count, np.int64)
    first[which[::-1]], low_z[which[::-1]], high_z[which] = runs.start[::-1], z[::-1], z + 1
    low, high = np.full((count, 2), _NEVER), np.zeros((count, 2), np.int64)
    np.minimum.at(low, which, np.stack([y, x], axis=-1))
    np.maximum.at(high, which, np.stack([y + 1, x + length], axis=-1))
    components = Components(
        first=first,
        size=np.bincount(which, length, count).astype(np.int64),
        low=np.column_stack([low_z, low]),
        high=np.column_stack([high_z, high]),
        index_sum=np.stack([np.bincount(which, one, count) for one in sums], axis=-1),
        probability_sum=np.bincount(which, sum_of_run, count),
    )
    return components, runs


def link_blocks(blocks: Sequence[BlockComponents], min_size: int = 0) -> tuple[list[np.ndarray], Components]:
    """Put the components of all blocks of a volume together, in their order.

    Args:
        blocks: of all blocks; those that share a slice are neighbors here.
        min_size: instances of at most so many voxels are removed; -1 keeps also those that are in a shared slice only.

    Returns:
        For each block a table (n + 1,) uint64 from its labels to ids of instances, 0 for the background and for what
        was removed; and the instances, in the order of their ids 1 ... n. Ids follow the instances' first voxels in
        raster order, so they do not depend on how the volume was cut into blocks.
    """
    offsets = np.cumsum([0, *(len(block.components) for block in blocks)])
    pairs = [
        (lower.top.astype(np.int64) - 1 + offset, upper.bottom.astype(np.int64) - 1 + next_offset)
        for lower, upper, offset, next_offset in zip(blocks, blocks[1:], offsets, offsets[1:], strict=False)
        if len(lower.top)
    ]
    total = int(offsets[-1])
    left, right = (np.concatenate([pair[side] for pair in pairs] or [np.zeros(0, np.int64)]) for side in (0, 1))
    graph = scipy.sparse.coo_matrix((np.ones(len(left), bool), (left, right)), shape=(total, total))
    count, whole = 0, np.zeros(0, np.int64)
    if total:
        count, whole = scipy.sparse.csgraph.connected_components(graph, directed=False)

    parts = Components(
        *(np.concatenate([getattr(b.components, f.name) for b in blocks] or [[]]) for f in fields(Components))
    )
    instances = Components(
        first=_combine(np.minimum, parts.first, whole, count, _NEVER),
        size=_combine(np.add, parts.size, whole, count, 0),
        low=_combine(np.minimum, parts.low, whole, count, _NEVER),
        high=_combine(np.maximum, parts.high, whole, count, 0),
        index_sum=_combine(np.add, parts.index_sum, whole, count, 0),
        probability_sum=_combine(np.add, parts.probability_sum, whole, count, 0),
    )
    kept = np.flatnonzero(instances.size > min_size)
    kept = kept[np.argsort(instances.first[kept])]
    ids = np.zeros(count, np.uint64)
    ids[kept] = np.arange(1, len(kept) + 1, dtype=np.uint64)
    background = np.zeros(1, np.uint64)
    tables = [np.concatenate([background, ids[whole[start:stop]]]) for start, stop in itertools.pairwise(offsets)]
    return tables, instances[kept]


def _labels_of_regions(labels: np.ndarray) -> np.ndarray:
    """List the labels of a slice's connected regions, in raster order: the same order for any labels of the same mask.

    Args:
        labels: (H, W) of a slice of a block; regions that meet in other slices have one label.
    """
    result: np.ndarray = labels.ravel()[first_pixels(labels)]  # all pixels of a region have the same label
    return result


def _combine(how: np.ufunc, values: np.ndarray, whole: np.ndarray, count: int, start: int) -> np.ndarray:
    """Reduce the ``values`` of parts to those of the ``count`` wholes that they belong to."""
    result = np.full((count, *values.shape[1:]), start, dtype=values.dtype)
    how.at(result, whole, values)
    return result
