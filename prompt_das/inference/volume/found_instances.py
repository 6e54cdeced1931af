"""The instances of a volume once they are written: on the disk, and read again a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from prompt_das.inference.volume.block_files import BlockFiles
from prompt_das.inference.volume.borders import BlockIds, BorderInstances
from prompt_das.inference.volume.linking import Block, Components

import numpy as np


class SomeInstances(NamedTuple):
    """Consecutive instances in the order of their ids: (n,) ids, their numbers, and (n, 3) points inside, z, y, x.

    A point is the voxel nearest to the centroid.
    """

    ids: np.ndarray
    components: Components
    points: np.ndarray

    def moved(self, offset: tuple[int, int, int]) -> SomeInstances:
        """The same instances with (z, y, x) added to where they lie."""
        return SomeInstances(self.ids, self.components.moved(offset), self.points + offset)


@dataclass(frozen=True, eq=False)
class FoundInstances:
    """All instances of a volume: their number is the length, and iterating gives those that begin in each block.

    Attributes:
        blocks: of the volume.
        files: of the blocks.
        ids: of each block.
        at_border: the m instances that lie in several blocks.
        border_points: (m, 3) points of these.
        min_size: instances of at most so many voxels were removed.
    """

    blocks: Sequence[Block]
    files: BlockFiles
    ids: Sequence[BlockIds]
    at_border: BorderInstances
    border_points: np.ndarray
    min_size: int

    def __len__(self) -> int:
        return sum(ids.count for ids in self.ids)

    def __iter__(self) -> Iterator[SomeInstances]:
        for block, ids in zip(self.blocks, self.ids, strict=True):
            measured = self.files.read_found(block)
            inner = measured.inner(self.min_size)
            begin, end = np.searchsorted(self.at_border.ids, [ids.first, ids.first + ids.count])
            of_border = slice(begin, end)
            all_ids = np.concatenate([ids.inner, self.at_border.ids[of_border]])
            order = np.argsort(all_ids)
            both = measured.components[inner], self.at_border.instances[of_border]
            components = Components(
                *(np.concatenate([getattr(one, field.name) for one in both])[order] for field in fields(Components))
            )
            points = np.concatenate([self.files.read_points(block).voxels[inner], self.border_points[of_border]])
            yield SomeInstances(all_ids[order], components, points[order])
