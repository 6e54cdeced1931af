"""What is kept of a block once its components are found, enough to link it and to write its instances.

Shapes: n components of the block, k of them in a slice that it shares with another block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from prompt_das.inference.volume.block_labels import InstanceRule, Labeling
from prompt_das.inference.volume.linking import Block, Components, link_blocks
from prompt_das.ops.runs import Runs, join_runs

import numpy as np


@dataclass(frozen=True, eq=False)
class MeasuredBlock:
    """The components of a block on its own, numbered 1 ... n in the raster order of their first voxels.

    Attributes:
        components: those in the slice that belongs to the next block alone come last, and have no voxel here.
        bottom, top: labels of the regions of the slice that is shared with the block below, and above.
    """

    components: Components
    bottom: np.ndarray
    top: np.ndarray

    @cached_property
    def border(self) -> np.ndarray:
        """(k,) labels of components that other blocks may go on with, ascending."""
        return np.unique(np.concatenate([self.bottom, self.top]))

    def inner(self, min_size: int) -> np.ndarray:
        """(n,) bool: the components that are instances whatever the other blocks hold."""
        inner = self.components.size > min_size
        inner[self.border - 1] = False
        return inner


def measure(labeling: Labeling, block: Block, rule: InstanceRule) -> tuple[MeasuredBlock, Runs]:
    """Find the components of a block, slab by slab, and the runs of their labels."""
    measured, runs_of_slabs = zip(*labeling.measure(block), strict=True)
    tables, components = link_blocks(measured, min_size=-1)
    tables = [table.astype(np.int64) for table in tables]
    bottom, top = measured[0].bottom, measured[-1].top
    if block.start == 0 or not rule.linked:
        bottom = bottom[:0]
    runs = [runs._replace(label=table[runs.label]) for runs, table in zip(runs_of_slabs, tables, strict=True)]
    return MeasuredBlock(components, tables[0][bottom], tables[-1][top]), join_runs(runs)
