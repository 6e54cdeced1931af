"""The files of a job that keep what is known of its blocks until the result is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from prompt_das.inference.volume.linking import Block, Components
from prompt_das.inference.volume.measured_block import MeasuredBlock
from prompt_das.inference.volume.nearest_voxels import NearestVoxels
from prompt_das.ops.runs import Runs
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
        """The file of a :class:`MeasuredBlock` and of the runs of its labels."""
        return Path(self.folder, f"{block.start}_{block.stop}_found.npz")

    def points(self, block: Block) -> Path:
        """The file of :class:`BlockPoints`."""
        return Path(self.folder, f"{block.start}_{block.stop}_points.npz")

    def write_found(self, block: Block, measured: MeasuredBlock, runs: Runs) -> None:
        borders = {"bottom": measured.bottom, "top": measured.top}
        _save(self.found(block), {**vars(measured.components), **borders, **runs._asdict()})

    def read_found(self, block: Block) -> MeasuredBlock:
        with np.load(self.found(block), allow_pickle=False) as file:
            components = Components(*(file[field.name] for field in fields(Components)))
            return MeasuredBlock(components, file["bottom"], file["top"])

    def read_runs(self, block: Block) -> Runs:
        with np.load(self.found(block), allow_pickle=False) as file:
            return Runs(*(file[name] for name in Runs._fields))

    def write_points(self, block: Block, points: NearestVoxels) -> None:
        _save(self.points(block), {"voxels": points.voxels, "distance": points.distance})

    def read_points(self, block: Block) -> BlockPoints:
        with np.load(self.points(block), allow_pickle=False) as file:
            return BlockPoints(file["voxels"], file["distance"])


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_write(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
