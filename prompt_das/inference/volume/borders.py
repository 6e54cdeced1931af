"""The instances of a volume from the components at the borders of its blocks, without those inside.

What lies inside a block is complete there, and all that its id needs is how many instances begin before it. So the
memory that is needed grows with the borders, not with the volume: some 350 bytes for each of the k components of a
block that lie in a slice which it shares with another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prompt_das.inference.volume.linking import BlockComponents, Components, link_blocks
from prompt_das.inference.volume.measured_block import MeasuredBlock

import numpy as np


@dataclass(frozen=True, eq=False)
class Border:
    """The components of a block that other blocks may go on with.

    Attributes:
        parts: k of them, with pairs as in other blocks.
        inner: how many instances are inside the block.
        before: (k,) how many of these begin before each of the k.
    """

    parts: BlockComponents
    inner: int
    before: np.ndarray

    @classmethod
    def of(cls, block: MeasuredBlock, min_size: int) -> Border:
        """The border of a block; instances of at most ``min_size`` voxels do not count."""
        inner = np.cumsum(block.inner(min_size))  # in the order of their first voxels, as the labels are
        pairs = (np.searchsorted(block.border, labels) + 1 for labels in (block.bottom, block.top))
        at = block.border - 1
        return cls(BlockComponents(block.components[at], *pairs), int(inner[-1]) if len(inner) else 0, inner[at])


@dataclass(frozen=True, eq=False)
class BlockIds:
    """Ids of the instances of a block.

    Attributes:
        first, count: those that begin in it have the ids ``first`` ... ``first + count - 1``, in raster order.
        border: (k,) of the components at its border, 0 for what is removed.
    """

    first: int
    count: int
    border: np.ndarray

    def table(self, block: MeasuredBlock, min_size: int) -> np.ndarray:
        """From labels of the block to ids, (n + 1,) uint64."""
        table = np.zeros(len(block.components) + 1, np.uint64)
        table[block.border] = self.border
        table[1:][block.inner(min_size)] = self.inner
        return table

    @property
    def inner(self) -> np.ndarray:
        """Ids of the instances inside, ascending: those that no instance at the border has."""
        return np.setdiff1d(np.arange(self.first, self.first + self.count, dtype=np.uint64), self.border)


@dataclass(frozen=True, eq=False)
class BorderInstances:
    """The m instances at the borders, in the order of their ids.

    Attributes:
        ids: (m,) uint64.
        instances: their numbers.
        of_parts: for each block (k,) indices of its components' instances, -1 for what is removed.
    """

    ids: np.ndarray
    instances: Components
    of_parts: list[np.ndarray]


def link_borders(borders: Sequence[Border], min_size: int) -> tuple[list[BlockIds], BorderInstances]:
    """Link the components at the borders of all blocks, in their order, and number all instances of the volume.

    Ids are 1 ... n in the order of the instances' first voxels in raster order, so they do not depend on the blocks.
    """
    tables, instances = link_blocks([border.parts for border in borders], min_size)
    of_parts = [table[1:].astype(np.int64) - 1 for table in tables]
    ids = np.zeros(len(instances), np.uint64)
    counts, inner_below = [], 0
    for border, index in zip(borders, of_parts, strict=True):
        begins = index >= 0
        begins[begins] = border.parts.components.first[begins] == instances.first[index[begins]]
        ids[index[begins]] = 1 + index[begins] + inner_below + border.before[begins]
        counts.append(border.inner + int(begins.sum()))
        inner_below += border.inner
    firsts = 1 + np.cumsum([0, *counts])
    id_of = np.append(ids, np.uint64(0))  # the last for -1
    blocks = [
        BlockIds(int(first), count, id_of[index]) for first, count, index in zip(firsts, counts, of_parts, strict=False)
    ]
    return blocks, BorderInstances(ids, instances, of_parts)
