"""What is kept of a block once its components are found: a file that is enough to label it again, and to link it.

Shapes: n components of the block, k of them in a slice that it shares with another block.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from prompt_das.inference.volume.block_labels import InstanceRule, Labeling
from prompt_das.inference.volume.linking import Block, Components, link_blocks
from prompt_das.utils.atomic_write import atomic_write

import numpy as np


@dataclass(frozen=True, eq=False)
class MeasuredBlock:
    """The components of a block on its own, numbered 1 ... n in the raster order of their first voxels.

    Attributes:
        components: those in the slice that belongs to the next block alone come last, and have no voxel here.
        bottom, top: labels of the regions of the slice that is shared with the block below, and above.
        tables: for each slab (see :mod:`prompt_das.inference.volume.block_labels`) from its labels to those here.
    """

    components: Components
    bottom: np.ndarray
    top: np.ndarray
    tables: list[np.ndarray]

    @classmethod
    def measure(cls, labeling: Labeling, block: Block, rule: InstanceRule) -> MeasuredBlock:
        """Find the components of a block, slab by slab."""
        slabs = list(labeling.measure(block))
        tables, components = link_blocks(slabs, min_size=-1)
        tables = [table.astype(np.int64) for table in tables]
        bottom, top = slabs[0].bottom, slabs[-1].top
        if block.start == 0 or not rule.linked:
            bottom = bottom[:0]
        return cls(components, tables[0][bottom], tables[-1][top], tables)

    def save(self, path: Path) -> None:
        """Write a file that is complete or not there."""
        arrays = {field.name: getattr(self.components, field.name) for field in fields(Components)}
        lengths = [len(table) for table in self.tables]
        with atomic_write(path) as part, open(part, "wb") as file:
            np.savez(
                file, **arrays, bottom=self.bottom, top=self.top, tables=np.concatenate(self.tables), lengths=lengths
            )

    @classmethod
    def load(cls, path: Path) -> MeasuredBlock:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            components = Components(*(file[field.name] for field in fields(Components)))
            tables = np.split(file["tables"], np.cumsum(file["lengths"])[:-1])
            return cls(components, file["bottom"], file["top"], tables)

    @cached_property
    def border(self) -> np.ndarray:
        """(k,) labels of components that other blocks may go on with, ascending."""
        return np.unique(np.concatenate([self.bottom, self.top]))

    def inner(self, min_size: int) -> np.ndarray:
        """(n,) bool: the components that are instances whatever the other blocks hold."""
        inner = self.components.size > min_size
        inner[self.border - 1] = False
        return inner
