"""The network in the background: requests go in, messages come out, and the newest request wins.

Every method returns at once. Results come as messages, which ``deliver`` is called with in the threads that did the
work; each carries the ticket of its request or task, so that the receiver can leave out what is out of date.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.inference.interactive.newest_call import NewestCall, Superseded
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.segmentation import Segmentation
from prompt_das.napari.edits import leave_out_held
from prompt_das.napari.ids import keep_ids
from prompt_das.napari.messages import (
    Cancelled,
    Checkpoint,
    Failed,
    Finished,
    Message,
    Opened,
    Previewed,
    Progress,
    Report,
    Request,
    Response,
)
from prompt_das.volumes.volume import Box

import numpy as np

THREADS = 4  # a click may be segmented while the windows of the request before are being encoded


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
        self._previews = NewestCall(tickets)
        self._task = 0  # ticket of the long task that was started last
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
        self._task = ticket = self.tasks.start()
        self._start(ticket, self._run, ticket, work)
        return ticket

    def announce(self, weights: Path) -> None:
        """Tell, from the thread of a task, of weights that are being adapted -> Checkpoint."""
        self._send(Checkpoint(self._task, weights))

    def preview(self, weights: Path, request: Request) -> None:
        """Segment a slice with other weights -> Previewed; nothing if they are gone, or a newer preview is wanted."""
        ticket = self._previews.start()
        self._start(ticket, self._preview, ticket, weights, request)

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
        for part in [None] if request.first is None else [request.first, None]:
            for segmentation in self._stream(ticket, request, predictor, image, intensity_range, part):
                instances = _instances(request, segmentation, instances)
                complete = part is None and segmentation.done == segmentation.total
                self._send(Response(ticket, request, segmentation, instances, complete))

    def _stream(
        self,
        ticket: int,
        request: Request,
        predictor: Predictor,
        image: np.ndarray,
        intensity_range: tuple[float, float] | None,
        part: Box | None,
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
                region=part,
                progress=lambda done, total: self._send(Progress(ticket, done, total)),
            )

    def _run(self, ticket: int, work: Callable[[Report], Any]) -> None:
        def report(done: int, total: int) -> None:
            if not self.tasks.is_newest(ticket):
                raise Cancelled
            self._send(Progress(ticket, done, total))

        self._send(Finished(ticket, work(report)))

    def _preview(self, ticket: int, weights: Path, request: Request) -> None:
        if not self._previews.is_newest(ticket):
            return
        segmentation = Predictor(weights).predict(
            request.clicks[:, :2],
            request.clicks[:, 2],
            image=request.volume.read(request.z),
            intensity_range=request.volume.intensity_range,
            scale=request.scale,
        )
        self._send(Previewed(ticket, request, _instances(request, segmentation, request.shown)))

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


def _instances(request: Request, segmentation: Segmentation, before: np.ndarray) -> np.ndarray:
    """The instances (H, W) of a segmentation, with the ids of those before, and those of the user where edits hold."""
    found = segmentation.instances_above(request.threshold, request.min_size)
    if request.held is None:
        return keep_ids(before, found)
    return np.where(request.held, request.shown, keep_ids(before, leave_out_held(found, request.held)))
