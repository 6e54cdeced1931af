"""The network in the background: questions go in, messages come out, and the newest question wins.

Every method returns at once. What becomes of it is told in messages, given to ``deliver`` in the threads that did the
work; each carries the ticket of what was asked, so that the receiver can leave out what is out of date.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.inference.interactive.predictor import Predictor, Segmentation, Superseded
from prompt_das.napari.ids import keep_ids
from prompt_das.napari.layers import LayerVolume

import numpy as np

THREADS = 4  # a click may be answered while the windows of the question before are being encoded


@dataclass(frozen=True, eq=False)
class Question:
    """What is on slice z, given these points (N, 2)? ``shown`` are the instances (H, W) that are shown there now."""

    volume: LayerVolume
    z: int
    points: np.ndarray
    shown: np.ndarray
    centers: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """To a question, so far or whole, see :class:`prompt_das.inference.interactive.predictor.Segmentation`.

    ``instances`` are those of the segmentation, with the ids, and so the colours, of those that were shown before.
    """

    ticket: int
    question: Question
    segmentation: Segmentation
    instances: np.ndarray

    @property
    def whole(self) -> bool:
        return self.segmentation.done == self.segmentation.total


@dataclass(frozen=True)
class Progress:
    """So many windows of a question, or slices of a volume, are done."""

    ticket: int
    done: int
    total: int


@dataclass(frozen=True)
class Opened:
    """There is a network now."""

    ticket: int
    weights: Path


@dataclass(frozen=True)
class Finished:
    """The work on a whole volume has a result."""

    ticket: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """It came to nothing, and why."""

    ticket: int
    error: BaseException


Message = Answer | Progress | Opened | Finished | Failed
Report = Callable[[int, int], None]


class Cancelled(Exception):
    """Nobody wants the result any more."""


class Session:
    """One viewer's network.

    Attributes:
        predictor: the network; None before the first weights are open.
        weights: the file that it comes from.
        question: ticket of the newest question.
        task: ticket of the newest work of another kind: opening weights, or a whole volume.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self.predictor: Predictor | None = None
        self.weights: Path | None = None
        self.question = 0
        self.task = 0
        self._deliver: Callable[[Message], None] | None = deliver
        self._tickets = 0
        self._delivering = threading.Lock()
        self._asking = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prompt_das")

    def open(self, weights: str | Path, device: str | None = None) -> int:
        """Load weights -> Opened, or Failed."""
        ticket = self.task = self._take_ticket()
        self._start(ticket, self._open, ticket, Path(weights).expanduser(), device)
        return ticket

    def ask(self, question: Question) -> int:
        """What ``predictor`` says -> Progress and Answers, the whole one last, or Failed. A newer one silences it."""
        if self.predictor is None:
            raise RuntimeError("there is no network yet: open weights first")
        ticket = self.question = self._take_ticket()
        self._start(ticket, self._answer, ticket, question, self.predictor)
        return ticket

    def cancel(self) -> None:
        """Nobody waits for an answer any more."""
        self.question = self._take_ticket()
        if self.predictor is not None:
            self.predictor.cancel()

    def run(self, work: Callable[[Report], Any]) -> int:
        """Any long work -> Progress, then Finished with what it returns, or Failed.

        ``work`` is called with a function to report progress to, which raises Cancelled after :meth:`cancel_task`.
        """
        ticket = self.task = self._take_ticket()
        self._start(ticket, self._run, ticket, work)
        return ticket

    def cancel_task(self) -> None:
        """Stop the work at its next report of progress; does not wait for it."""
        self.task = self._take_ticket()

    def close(self) -> None:
        """No message comes after this. What runs ends soon, in the background."""
        with self._delivering:
            self._deliver = None
        self.cancel()
        self.cancel_task()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- in the threads

    def _open(self, ticket: int, weights: Path, device: str | None) -> None:
        predictor = Predictor(weights, device=device)
        if ticket == self.task:
            self.predictor, self.weights = predictor, weights
            self._send(Opened(ticket, weights))

    def _answer(self, ticket: int, question: Question, predictor: Predictor) -> None:
        image = question.volume.read(question.z)
        intensity_range = question.volume.intensity_range
        instances = question.shown
        for segmentation in self._ask(ticket, question, predictor, image, intensity_range):
            instances = keep_ids(instances, segmentation.instances)
            self._send(Answer(ticket, question, segmentation, instances))

    def _ask(
        self,
        ticket: int,
        question: Question,
        predictor: Predictor,
        image: np.ndarray,
        intensity_range: tuple[float, float] | None,
    ) -> Iterator[Segmentation]:
        """For the predictor the last call is the newest one: it must be called in the order of the tickets."""
        with self._asking:
            if ticket != self.question:
                raise Superseded("a newer question came while the slice was read")
            return predictor.stream(
                question.points,
                image=image,
                intensity_range=intensity_range,
                centers=question.centers,
                progress=lambda done, total: self._send(Progress(ticket, done, total)),
            )

    def _run(self, ticket: int, work: Callable[[Report], Any]) -> None:
        def report(done: int, total: int) -> None:
            if ticket != self.task:
                raise Cancelled
            self._send(Progress(ticket, done, total))

        self._send(Finished(ticket, work(report)))

    # ---- both

    def _take_ticket(self) -> int:
        """Called by the viewer's thread only."""
        self._tickets += 1
        return self._tickets

    def _start(self, ticket: int, work: Callable[..., None], *args: Any) -> None:
        future = self._pool.submit(work, *args)

        def tell(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None and not isinstance(error, Superseded | Cancelled):
                self._send(Failed(ticket, error))

        future.add_done_callback(tell)

    def _send(self, message: Message) -> None:
        with self._delivering:
            if self._deliver is not None:
                self._deliver(message)
