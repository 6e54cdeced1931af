"""Where the slices and blocks of a volume are worked on: in this process, or by the workers of a Dask cluster."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from prompt_das.data.workers import block_signals

import torch

AT_ONCE = 4  # slices of a Dask task: few, so that little is lost with a worker, but the next is read ahead
PATIENCE = 120.0  # seconds: a busy machine took more than 30 to start a worker in the place of one that had died
_POLL = 1.0  # seconds
_CONNECT = 20.0  # seconds
_PRELOAD = "prompt_das.inference.volume.slice_prediction"  # workers import it as they start, not at their first slice
# Dask lets its workers give freed memory back at once; the network then spends half of its time asking for it again.
_TRIM = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"


class Work(Protocol):
    """A function of some slices or blocks that yields one result for each."""

    def __call__(self, items: Sequence[Any], /) -> Iterator[Any]: ...


class Executor(Protocol):
    """Applies a work to items, here or elsewhere, ``at_once`` in one call, and yields its results in any order."""

    def __call__(self, work: Work, items: Sequence[Any], /, *, at_once: int = AT_ONCE) -> Iterator[Any]: ...


def run_here(work: Work, items: Sequence[Any], *, at_once: int = AT_ONCE) -> Iterator[Any]:
    """Work in this process, all in one call, results in order."""
    return work(items)


@contextmanager
def dask_executor(
    address: str | None = None, workers: int | None = None, patience: float = PATIENCE
) -> Iterator[Executor]:
    """Provide an executor on a Dask cluster. Its workers must see input, weights and output under the same paths.

    A worker that dies is replaced or its items go to others; results come in any order.

    Args:
        address: of a scheduler, "tcp://host:8786". None starts processes on this machine for as long as it lasts.
        workers: how many of these; by default one for each GPU, or for each core without a GPU.
        patience: seconds without a scheduler, or without any worker, after which the cluster counts as lost.

    Raises:
        OSError: there is no scheduler at the address.
        RuntimeError: an item has brought down several workers, the scheduler is lost, or there are no workers (raised
            while running).
    """
    import dask
    from distributed import Client, LocalCluster  # here: a second to import, for those who want it

    # The client logs tracebacks of its own when it loses the scheduler; the error below is enough.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    if address is not None:
        try:
            client = Client(address, timeout=_CONNECT)
        except (OSError, ValueError) as error:
            raise OSError(f"no Dask scheduler answers at {address}: is it running, is the address right?") from error
        with _closing(client):
            yield _on(client, address, patience)
        return
    workers = workers or torch.cuda.device_count() or len(os.sched_getaffinity(0))
    # Ctrl-C in a terminal reaches the workers, too. They start with it blocked, and end with this process instead,
    # which receives it when all of them have started: what is half started cannot be closed.
    with ExitStack() as stack:
        with defer_interrupt(), block_signals((signal.SIGINT,)):
            # Memory is bounded by the size of a slice; Dask's own limit would kill workers on large ones.
            options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
            with dask.config.set({_TRIM: None}):
                local = LocalCluster(n_workers=workers, preload=[_PRELOAD], **options)
            client = stack.enter_context(Client(stack.enter_context(local)))
            client.wait_for_workers(workers, timeout=60)
        yield _on(client, "this machine", patience)


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a Ctrl-C at the end of the block instead of within it."""
    if threading.current_thread() is not threading.main_thread():  # no other thread is interrupted
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def device_of_worker(device: str) -> str:
    """Distribute the GPUs of a machine over its Dask workers: "cuda" becomes "cuda:1" for the second worker.

    Elsewhere, on one GPU, and for a device with a number, the device stays as it is.
    """
    from distributed import get_worker

    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    try:
        name = get_worker().name
    except ValueError:  # not in a worker
        return device
    return f"cuda:{name % torch.cuda.device_count()}" if isinstance(name, int) else device


@contextmanager
def _closing(client: Any) -> Iterator[None]:
    """Close a client in the end, also one whose scheduler is gone, for which it would wait."""
    try:
        yield
    finally:
        client.close(timeout="5s")


def _on(client: Any, where: str, patience: float) -> Executor:
    from distributed import KilledWorker

    def run(work: Work, items: Sequence[Any], *, at_once: int = AT_ONCE) -> Iterator[Any]:
        chunks = [items[start : start + at_once] for start in range(0, len(items), at_once)]
        futures = client.map(_all, [work] * len(chunks), chunks, pure=False)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for future in futures:
            future.add_done_callback(done.put)
        try:
            for _ in futures:
                yield from _next(client, done, where, patience).result()
        except KilledWorker as error:
            raise RuntimeError(f"several workers died at the same slices, out of memory perhaps: {error}") from error
        except CancelledError as error:
            raise RuntimeError(f"the Dask scheduler of {where} is lost: start it again") from error

    return run


def _next(client: Any, done: queue.SimpleQueue[Any], where: str, patience: float) -> Any:
    """Wait for the next future that is done, as long as there are a scheduler and workers."""
    last_seen = time.monotonic()
    while True:
        try:
            return done.get(timeout=_POLL)
        except queue.Empty:
            connected = client.status == "running"
            if connected and client.scheduler_info()["workers"]:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > patience:
                problem = "has no workers: start some" if connected else "is lost: start it again"
                raise RuntimeError(f"the Dask scheduler of {where} {problem}") from None


def _all(work: Work, items: Sequence[Any]) -> list[Any]:
    return list(work(items))
