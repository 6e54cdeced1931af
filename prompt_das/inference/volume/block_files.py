"""The files of a job that keep what is known of its blocks until the result is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prompt_das.inference.volume.linking import Block
from prompt_das.inference.volume.measured_block import MeasuredBlock
from prompt_das.inference.volume.nearest_voxels import NearestVoxels
from prompt_das.utils.atomic_write import atomic_write

import numpy as np


class BlockPoints(NamedTuple):
    """For each of n components of a block the voxel (n, 3) nearest to the centroid, and its squared distance (n,)."""

    voxels: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class BlockFiles:
    """Two files for each block in a folder, each of which is complete or not there."""

    folder: str

    def found(self, block: Block) -> Path:
        """The file of a :class:`MeasuredBlock`."""
        return Path(self.folder, f"{block.start}_{block.stop}_found.npz")

    def points(self, block: Block) -> Path:
        """The file of :class:`BlockPoints`."""
        return Path(self.folder, f"{block.start}_{block.stop}_points.npz")

    def read_found(self, block: Block) -> MeasuredBlock:
        return MeasuredBlock.load(self.found(block))

    def read_points(self, block: Block) -> BlockPoints:
        with np.load(self.points(block), allow_pickle=False) as file:
            return BlockPoints(file["voxels"], file["distance"])

    def write_points(self, block: Block, points: NearestVoxels) -> None:
        with atomic_write(self.points(block)) as part, open(part, "wb") as file:
            np.savez(file, voxels=points.voxels, distance=points.distance)
