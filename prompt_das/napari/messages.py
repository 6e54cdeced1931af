"""What goes to the session, a request, and what comes back: messages, each with the ticket of its request or task."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.inference.interactive.segmentation import Segmentation
from prompt_das.napari.layers import LayerVolume
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD
from prompt_das.volumes.volume import Box

import numpy as np


@dataclass(frozen=True, eq=False)
class Request:
    """Segment slice z given clicks (N, 3): x, y, label.

    Attributes:
        shown: the instances (H, W) that are shown there now.
        suggest: whether places to click next shall be shown as well.
        held: (H, W) bool, where the user's edits of them hold; None without any.
        scale: network pixels per image pixel; None for the predictor's own.
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many pixels are left out; None: the predictor's own.
        first: a box (y0, x0, y1, x1) of the slice that is segmented before the rest; None for the middle.
    """

    volume: LayerVolume
    z: int
    clicks: np.ndarray
    shown: np.ndarray
    suggest: bool = False
    scale: float | None = None
    threshold: float = FOREGROUND_THRESHOLD
    min_size: int | None = None
    held: np.ndarray | None = None
    first: Box | None = None

    @property
    def key(self) -> Hashable:
        """The same for requests with the same instances, of one slice and network."""
        return self.clicks.tobytes(), self.scale, self.threshold, self.min_size


@dataclass(frozen=True, eq=False)
class Response:
    """The result of a request, so far or complete.

    ``instances`` are those of the segmentation, with the ids, and so the colors, of those that were shown before.
    Complete is what has all windows of the slice.
    """

    ticket: int
    request: Request
    segmentation: Segmentation
    instances: np.ndarray
    complete: bool


@dataclass(frozen=True, eq=False)
class Previewed:
    """The instances that a network which is being adapted finds in the slice of a request."""

    ticket: int
    request: Request
    instances: np.ndarray


@dataclass(frozen=True)
class Checkpoint:
    """A task has weights of a network that is being adapted."""

    ticket: int
    weights: Path


@dataclass(frozen=True)
class Progress:
    """So many windows of a request, or slices of a volume, are done."""

    ticket: int
    done: int
    total: int


@dataclass(frozen=True)
class Opened:
    """A network was loaded."""

    ticket: int
    weights: Path


@dataclass(frozen=True)
class Finished:
    """A task is done, with its result."""

    ticket: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A request or task ended with an error."""

    ticket: int
    error: BaseException


Message = Response | Previewed | Checkpoint | Progress | Opened | Finished | Failed
Report = Callable[[int, int], None]


class Cancelled(Exception):
    """The task was cancelled."""
