"""How the slices of a block are labeled, before anything is known of other blocks: as components, or split at centers.

Labels count from 1 in each part of the block that is held in memory at once, a slab: some slices for components, one
slice where slices are split.

Shapes: D, H, W slices, height and width of a slab; n components or parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from prompt_das.inference.volume.center_instances import CenterRule, SliceParts, link_slices, split_slice
from prompt_das.inference.volume.linking import (
    Block,
    BlockComponents,
    Components,
    measure_block,
    measure_runs,
    split_into_blocks,
)
from prompt_das.ops.runs import Runs
from prompt_das.volumes.ome_zarr import finest

import numpy as np

SLAB_VOXELS = 1 << 23  # at most, of 6 bytes of memory
LEAST_SLICES = 3  # of a slab, however large they are: the slice that two slabs share is labeled twice
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class InstanceRule:
    """What is an instance.

    Attributes:
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many voxels are removed.
        linked: 3-D instances, otherwise those of each slice.
        centers: how slices are split; None: instances are connected components.
    """

    threshold: float
    min_size: int
    linked: bool = True
    centers: CenterRule | None = None

    @property
    def lowest(self) -> int:
        """Lowest stored probability of the foreground; 255 is 1."""
        return math.floor(255 * self.threshold) + 1


class Labeling(Protocol):
    """The slabs of a block of a stored volume."""

    def measure(self, block: Block) -> Iterator[tuple[BlockComponents, Runs]]:
        """Label each slab: numbers of its components and what they share with the next slab, and the runs of its own.

        ``bottom`` of the first and ``top`` of the last list the regions that are shared with other blocks.
        """


def labeling_of(group: Any, rule: InstanceRule) -> Labeling:
    """The labeling of a Zarr group as `prompt_das.volumes.ome_zarr.create_ome_zarr` makes it."""
    return _ComponentLabeling(group, rule) if rule.centers is None else _CenterLabeling(group, rule, rule.centers)


class _ComponentLabeling:
    """Connected components of slabs, or of slices."""

    def __init__(self, group: Any, rule: InstanceRule) -> None:
        self._probability, self._rule = finest(group, "probability"), rule

    def measure(self, block: Block) -> Iterator[tuple[BlockComponents, Runs]]:
        for slab in self._slabs(block):
            stored = np.asarray(self._probability[slab.start : slab.end])
            yield measure_block(stored >= self._rule.lowest, stored, slab)

    def _slabs(self, block: Block) -> list[Block]:
        _, height, width = self._probability.shape
        slices = max(LEAST_SLICES, SLAB_VOXELS // (height * width) - 1) if self._rule.linked else 1
        return split_into_blocks(block, slices, linked=self._rule.linked)


class _CenterLabeling:
    """Slices that are split at centers, and linked by what they share with the next."""

    def __init__(self, group: Any, rule: InstanceRule, centers: CenterRule) -> None:
        self._group, self._rule, self._centers = group, rule, centers

    def measure(self, block: Block) -> Iterator[tuple[BlockComponents, Runs]]:
        waiting: tuple[Components, Runs, np.ndarray] | None = None  # of the slice before, with its lower links
        before: SliceParts | None = None
        for z in range(block.start, block.end):
            parts, stored = self._split(z)
            count = len(parts.component) - 1
            bottom = np.arange(1, count + 1) if z == block.start else _NONE
            if waiting is not None and before is not None:
                top, bottom = link_slices(before, parts) if self._rule.linked else (_NONE, _NONE)
                yield BlockComponents(waiting[0], waiting[2], top), waiting[1]
            own = Block(z, min(z + 1, block.stop), z + 1)  # nothing of the slice that the next block has as well
            runs = parts.runs.between(0, (own.stop - z) * stored.size)
            waiting, before = (*measure_runs(runs, count, stored[None], own), bottom), parts
        if waiting is not None:
            top = np.arange(1, len(waiting[0]) + 1) if block.end > block.stop else _NONE
            yield BlockComponents(waiting[0], waiting[2], top), waiting[1]

    def _split(self, z: int) -> tuple[SliceParts, np.ndarray]:
        return split_slice(self._group, z, self._centers, self._rule.lowest, linked=self._rule.linked)
