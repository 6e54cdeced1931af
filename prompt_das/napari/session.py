"""The network in the background: requests go in, messages come out, and the newest request wins.

Every method returns at once. Results come as messages, which ``deliver`` is called with in the threads that did the
work; each carries the ticket of its request or task, so that the receiver can leave out what is out of date.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.inference.interactive.newest_call import NewestCall, Superseded
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.segmentation import Segmentation
from prompt_das.napari.ids import keep_ids
from prompt_das.napari.layers import LayerVolume
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD

import numpy as np

THREADS = 4  # a click may be segmented while the windows of the request before are being encoded


@dataclass(frozen=True, eq=False)
class Request:
    """Segment slice z given clicks (N, 3): x, y, label.

    Attributes:
        shown: the instances (H, W) that are shown there now.
        scale: network pixels per image pixel; None for the predictor's own.
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many pixels are left out; None: the predictor's own.
    """

    volume: LayerVolume
    z: int
    clicks: np.ndarray
    shown: np.ndarray
    centers: bool = False
    scale: float | None = None
    threshold: float = FOREGROUND_THRESHOLD
    min_size: int | None = None

    @property
    def key(self) -> Hashable:
        """The same for requests with the same instances, of one slice and network."""
        return self.clicks.tobytes(), self.scale, self.threshold, self.min_size


@dataclass(frozen=True, eq=False)
class Response:
    """The result of a request, so far or complete.

    ``instances`` are those of the segmentation, with the ids, and so the colors, of those that were shown before.
    """

    ticket: int
    request: Request
    segmentation: Segmentation
    instances: np.ndarray

    @property
    def complete(self) -> bool:
        return self.segmentation.done == self.segmentation.total


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


Message = Response | Progress | Opened | Finished | Failed
Report = Callable[[int, int], None]


class Cancelled(Exception):
    """The task was cancelled."""


class Session:
    """One viewer's network.

    Attributes:
        predictor: the network; None before the first weights are open.
        weights: the file that it comes from.
        requests: their tickets, of which the newest counts.
        tasks: the same for work of other kinds: opening weights, or a whole volume.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self.predictor: Predictor | None = None
        self.weights: Path | None = None
        tickets = itertools.count(1)
        self.requests = NewestCall(tickets)
        self.tasks = NewestCall(tickets)
        self._deliver: Callable[[Message], None] | None = deliver
        self._delivering = threading.Lock()
        self._submitting = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prompt_das")

    def open(self, weights: str | Path, device: str | None = None) -> int:
        """Load weights, a file or the name of a model -> Opened, or Failed."""
        ticket = self.tasks.start()
        self._start(ticket, self._open, ticket, weights, device)
        return ticket

    def submit(self, request: Request) -> int:
        """Segment a slice -> Progress and Responses, the complete one last, or Failed. A newer request ends it."""
        if self.predictor is None:
            raise RuntimeError("there is no network yet: open weights first")
        ticket = self.requests.start()
        self._start(ticket, self._respond, ticket, request, self.predictor)
        return ticket

    def cancel(self) -> None:
        """End the newest request: it sends nothing more."""
        self.requests.start()
        if self.predictor is not None:
            self.predictor.cancel()

    def run(self, work: Callable[[Report], Any]) -> int:
        """Start a long task -> Progress, then Finished with what it returns, or Failed.

        ``work`` is called with a function to report progress to, which raises Cancelled after :meth:`cancel_task`.
        """
        ticket = self.tasks.start()
        self._start(ticket, self._run, ticket, work)
        return ticket

    def cancel_task(self) -> None:
        """Stop the task at its next report of progress. Does not wait for it."""
        self.tasks.start()

    def close(self) -> None:
        """Deliver no message after this. What runs ends soon, in the background."""
        with self._delivering:
            self._deliver = None
        self.cancel()
        self.cancel_task()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- in the threads

    def _open(self, ticket: int, weights: str | Path, device: str | None) -> None:
        file = find_weights(weights)
        predictor = Predictor(file, device=device)
        if self.tasks.is_newest(ticket):
            self.predictor, self.weights = predictor, file
            self._send(Opened(ticket, file))

    def _respond(self, ticket: int, request: Request, predictor: Predictor) -> None:
        image = request.volume.read(request.z)
        intensity_range = request.volume.intensity_range
        instances = request.shown
        for segmentation in self._stream(ticket, request, predictor, image, intensity_range):
            found = segmentation.instances_above(request.threshold, request.min_size)
            instances = keep_ids(instances, found)
            self._send(Response(ticket, request, segmentation, instances))

    def _stream(
        self,
        ticket: int,
        request: Request,
        predictor: Predictor,
        image: np.ndarray,
        intensity_range: tuple[float, float] | None,
    ) -> Iterator[Segmentation]:
        """For the predictor the last call is the newest one: it must be called in the order of the tickets."""
        with self._submitting:
            self.requests.check(ticket)  # a newer one may have come while the slice was read
            return predictor.stream(
                request.clicks[:, :2],
                request.clicks[:, 2],
                image=image,
                intensity_range=intensity_range,
                scale=request.scale,
                centers=request.centers,
                progress=lambda done, total: self._send(Progress(ticket, done, total)),
            )

    def _run(self, ticket: int, work: Callable[[Report], Any]) -> None:
        def report(done: int, total: int) -> None:
            if not self.tasks.is_newest(ticket):
                raise Cancelled
            self._send(Progress(ticket, done, total))

        self._send(Finished(ticket, work(report)))

    # ---- both

    def _start(self, ticket: int, work: Callable[..., None], *args: Any) -> None:
        future = self._pool.submit(work, *args)

        def notify(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None and not isinstance(error, Superseded | Cancelled):
                self._send(Failed(ticket, error))

        future.add_done_callback(notify)

    def _send(self, message: Message) -> None:
        with self._delivering:
            if self._deliver is not None:
                self._deliver(message)
