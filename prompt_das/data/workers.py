"""The worker processes of a data loader: they end with the process that they load for, not before it and not after it.

Batches come from the workers in shared memory, /dev/shm. Where that is small, 64 MB in a container by default, they
are pickled and sent through the workers' pipes instead: slower, but they need none.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import multiprocessing.util
import os
import pickle
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_NOT_SENT = 74  # EX_IOERR in sysexits.h: exit code of a worker that could not send its batch
SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY = 1 << 30  # free bytes; some workers, batches and crops of the paper's size need a tenth of it


class MonitoredDataLoader:
    """The batches of a DataLoader, and an error instead of a hang where one of its workers has died.

    Raises:
        RuntimeError: a worker was killed, or could not send its batch. Raised where the next batch is awaited: torch
            would raise it in the middle of whatever this process does just then, write a checkpoint for example.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        loader.worker_init_fn = init_worker
        self.pickled = loader.num_workers > 0 and free_shared_memory() < MIN_SHARED_MEMORY
        if self.pickled:
            loader.collate_fn = PickledCollate(loader.collate_fn)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if not self.loader.num_workers:
            yield from self.loader
            return
        multiprocessing.util.Finalize(None, kill_workers, exitpriority=1)  # before Python terminates them and waits
        others, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        with block_signals(STOP_SIGNALS):  # until the new processes ignore them
            batches = iter(self.loader)
        set_child_handler(handler)  # not torch's
        workers = [child for child in multiprocessing.active_children() if child not in others]
        try:
            while True:
                try:
                    with raise_for_dead(workers):
                        batch = next(batches)
                except StopIteration:
                    return
                yield pickle.loads(batch) if self.pickled else batch  # noqa: S301  # from this program's own worker
        finally:
            # After an error torch would wait five seconds for each of them, whenever its iterator is collected.
            for worker in workers:
                worker.kill()


class PickledCollate:
    """A collate function whose batches are bytes, which torch does not put into shared memory."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> bytes:
        return pickle.dumps(self.collate(samples), protocol=pickle.HIGHEST_PROTOCOL)


def free_shared_memory() -> int:
    """Free bytes of /dev/shm; 0 where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


@contextmanager
def block_signals(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Signals that come meanwhile are delivered afterwards; a process forked meanwhile begins with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker(worker: int) -> None:
    """Prepare a worker process to end neither before nor after its parent, and never to drop a batch.

    Not before: a cluster or a terminal signals workers too, and without them a step cannot end in good order.

    Not after: if the parent is killed, torch has workers end when they next wait for work, but one that is blocked
    with more than fits into the pipe would never get there.

    Queues send in a thread, and drop what the thread cannot send: the parent would wait for it without end.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(exit_not_sent)  # type: ignore[attr-defined]
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()


def exit_not_sent(error: Exception, batch: Any) -> None:
    """End this worker at once: a batch could not be sent."""
    traceback.print_exception(error)
    os._exit(EXIT_NOT_SENT)


def exit_with_parent(parent: int, period: float = 1.0) -> None:
    """End this process at once when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(period)
    os._exit(1)


def kill_workers() -> None:
    """At its exit Python sends the workers SIGTERM, which they ignore, and waits for them."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def raise_for_dead(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """RuntimeError as soon as a worker is dead, also while this process waits for a batch of it."""

    def check(*_: Any) -> None:
        for worker in workers:
            if worker.exitcode:  # None while it works, 0 when it is done
                raise RuntimeError(
                    f"a process that loads data (pid {worker.pid}) has ended with exit code {worker.exitcode}. "
                    f"{_cause(worker.exitcode)} A training goes on with --resume as if nothing had happened."
                )

    handler = set_child_handler(check)
    try:
        check()
        yield
    except (OSError, EOFError):  # a worker may have died while it sent something
        ending = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=1)
        for worker in workers:
            if worker.sentinel in ending:  # its end is seen a moment before its exit code
                worker.join(timeout=1)
        check()
        raise
    finally:
        set_child_handler(handler)


def _cause(exit_code: int) -> str:
    if exit_code not in (EXIT_NOT_SENT, -signal.SIGBUS):
        return "If that is -9, most often memory ran out: try fewer DATALOADER.NUM_WORKERS or a smaller batch."
    return (
        f"It could not send its batch, most often because shared memory is full ({SHARED_MEMORY} has "
        f"{free_shared_memory() / 2**20:,.0f} MB free). Start the container with --ipc=host or a larger --shm-size, or "
        "set fewer DATALOADER.NUM_WORKERS."
    )


def set_child_handler(handler: Callable | int | None) -> Any:
    """Set the handler of SIGCHLD and return the one before; only the main thread can, elsewhere nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
