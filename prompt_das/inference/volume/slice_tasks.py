"""Slices that wait for the network, and their images, which are read while it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from prompt_das.data.slices import read_image
from prompt_das.volumes.volume import VolumeError

import numpy as np


@dataclass(frozen=True)
class SliceTask:
    """One slice to predict.

    Attributes:
        z: its index in the output.
        entry: its dict (prompt_das.data.slices).
        points: its clicks (N, 3).
        scale: network pixels per image pixel.
        neighbors: the slices that its prediction is averaged with, in the order of the volume; these have none.
    """

    z: int
    entry: Mapping[str, Any]
    points: np.ndarray
    scale: float
    neighbors: tuple[SliceTask, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the slice in the volume."""
        return self.entry["height"], self.entry["width"]


def with_neighbors(tasks: Sequence[SliceTask], count: int) -> list[SliceTask]:
    """All slices of a volume in order -> the same, each with up to ``count`` neighbors before and behind it."""
    return [
        replace(task, neighbors=(*tasks[max(0, z - count) : z], *tasks[z + 1 : z + 1 + count]))
        for z, task in enumerate(tasks)
    ]


def read_ahead(reader: Executor, tasks: Sequence[SliceTask]) -> Iterator[tuple[SliceTask, np.ndarray | VolumeError]]:
    """Yield each slice with its image (H', W') at the network's scale, or why it cannot be read; one is read ahead."""
    ahead = [reader.submit(_try_to_read, task) for task in tasks[:1]]
    for i, task in enumerate(tasks):
        image = ahead.pop().result()
        ahead += [reader.submit(_try_to_read, following) for following in tasks[i + 1 : i + 2]]
        yield task, image


def _try_to_read(task: SliceTask) -> np.ndarray | VolumeError:
    try:
        return read_image(dict(task.entry), scale=task.scale)
    except VolumeError as error:
        return error
