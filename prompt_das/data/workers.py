"""The processes of a data loader: they end with the one that they work for, not before it and not after it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

ASKING = (signal.SIGTERM, signal.SIGINT)  # to stop


class MonitoredDataLoader:
    """The batches of a DataLoader whose processes, if it has any, are looked after.

    Raises:
        RuntimeError: one of them was killed. Raised where the next batch is asked for: torch would raise it in the
            middle of whatever this process does just then, write a checkpoint for example.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        loader.worker_init_fn = init_worker

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if not self.loader.num_workers:
            yield from self.loader
            return
        multiprocessing.util.Finalize(None, kill_workers, exitpriority=1)  # before Python asks and waits
        others, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        with block_signals(ASKING):  # until the new processes ignore them
            batches = iter(self.loader)
        on_end_of_child(handler)  # not torch's
        workers = [child for child in multiprocessing.active_children() if child not in others]
        while True:
            try:
                with raising_for(workers):
                    batch = next(batches)
            except StopIteration:
                return
            yield batch


@contextmanager
def block_signals(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Signals that come meanwhile are delivered afterwards; a process forked meanwhile begins with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker(worker: int) -> None:
    """Not before: a cluster or a terminal signals workers too, and without them a step cannot end in good order.

    Not after: if the process that they work for is killed, torch has them end when they next ask for work, but who
    waits for somebody to take what no longer fits into the pipe would never ask.
    """
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()


def exit_with_parent(parent: int, period: float = 1.0) -> None:
    """End this process, without ado, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(period)
    os._exit(1)


def kill_workers() -> None:
    """At its exit Python asks the loaders' processes to end by SIGTERM, which these ignore, and waits for them."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def raising_for(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """RuntimeError as soon as a worker is dead, also while this process waits for what it was about to send."""

    def look(*_: Any) -> None:
        for worker in workers:
            if worker.exitcode:  # None while it works, 0 when it is done
                raise RuntimeError(
                    f"a process that loads data (pid {worker.pid}) has ended with exit code {worker.exitcode}. If that "
                    "is -9, most often memory ran out: try fewer DATALOADER.NUM_WORKERS or a smaller batch. A training "
                    "goes on with --resume as if nothing had happened."
                )

    handler = on_end_of_child(look)
    try:
        look()
        yield
    except (OSError, EOFError):  # a worker may have died while it handed something over
        ending = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=1)
        for worker in workers:
            if worker.sentinel in ending:  # its end is seen a moment before its exit code
                worker.join(timeout=1)
        look()
        raise
    finally:
        on_end_of_child(handler)


def on_end_of_child(handler: Callable | int | None) -> Any:
    """Set the handler of SIGCHLD and return the one before; only the main thread can, elsewhere nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
