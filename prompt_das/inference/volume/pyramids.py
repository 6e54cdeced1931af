"""Coarser levels of the arrays of a result, level by level, here or by the workers of a cluster.

They are made anew if the job is stopped: they take a small part of the time of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.executors import Executor
from prompt_das.inference.volume.progress import Progress, SliceBar
from prompt_das.volumes.ome_zarr import LABELS, create_levels, fill_level
from prompt_das.volumes.pyramid import Level, mean, mode
from prompt_das.volumes.voxel_size import VoxelSize

import zarr

SLICES = 16  # of a task, and as many more as there are in a chunk


@dataclass(frozen=True)
class LevelPart:
    """Slices ``start`` ... ``stop - 1`` of the level ``index`` of an array."""

    name: str
    index: int
    start: int
    stop: int


def make_pyramids(
    store: Path, group: Any, names: Sequence[str], voxel_size: VoxelSize | None, executor: Executor, progress: Progress
) -> list[Level]:
    """Make the coarser levels of images, and of the labels, in ``store``; returns all levels, which are alike."""
    levels: list[Level] = []
    for name in names:
        levels = create_levels(group, name, voxel_size)
    work = partial(fill_parts, str(store), levels)
    with SliceBar("Making pyramids", len(names) * sum(level.shape[0] for level in levels[1:]), 0, progress) as bar:
        for index, level in enumerate(levels[1:], 1):
            parts = [part for name in names for part in _split(group, name, index, level)]
            for part in executor(work, parts, at_once=1):
                bar.slice_done(part.stop - part.start)
    return levels


def fill_parts(store: str, levels: Sequence[Level], parts: Sequence[LevelPart]) -> Iterator[LevelPart]:
    """Fill parts of a level from the level before. Yields each that is done."""
    group: Any = zarr.open_group(store, mode="r+")
    for part in parts:
        reduce = mode if part.name == LABELS else mean
        fill_level(group, part.name, levels, part.index, (part.start, part.stop), reduce)
        yield part


def _split(group: Any, name: str, index: int, level: Level) -> list[LevelPart]:
    """The parts of a level: chunks in z, none of which two of them share."""
    chunk = group[f"{name}/{index}"].chunks[0]
    slices = chunk * max(1, SLICES // chunk)
    depth = level.shape[0]
    return [LevelPart(name, index, z, min(z + slices, depth)) for z in range(0, depth, slices)]
