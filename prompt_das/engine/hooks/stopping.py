"""Stopping on a signal: the step ends, a checkpoint is written, and the exit code means that the run can go on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.data.workers import STOP_SIGNALS

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

EXIT_RESUMABLE = 75  # EX_TEMPFAIL in sysexits.h: not done yet, try again. A job script can requeue itself.
# Sent by the parent of several processes to each of them. It may come together with the signal of the cluster or the
# terminal to all of them, so other than that one it can be repeated without harm.
FORWARDED_SIGNAL = signal.SIGUSR1


class StopOnSignal(HookBase):
    """On SIGTERM or SIGINT finish the iteration, write a checkpoint, and exit with ``EXIT_RESUMABLE``.

    The last of all hooks. Several processes stop after the same iteration, whichever of them got the signal. A second
    signal ends the process at once, as it would without this hook; so it does, with ``EXIT_RESUMABLE``, when all
    iterations are done and saved and only the final evaluation is left.
    """

    def __init__(self, checkpointer: PromptDASCheckpointer) -> None:
        self.checkpointer = checkpointer
        self.stop_requested = False
        self.all_saved = False
        self.group: Any = None
        self.handlers_before: dict[signal.Signals, Any] = {}

    def before_train(self) -> None:
        self.stop_requested = False
        self.all_saved = self.trainer.start_iter >= self.trainer.max_iter
        if comm.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")  # on the CPU: a GPU does not have to wait
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            self.handlers_before = {
                number: signal.signal(number, self.request_stop) for number in (*STOP_SIGNALS, FORWARDED_SIGNAL)
            }

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. It does not log: it may have interrupted the logging of something else."""
        if number != FORWARDED_SIGNAL:
            for stop_signal in STOP_SIGNALS:
                self.restore(stop_signal)
        if not self.all_saved:
            self.stop_requested = True
        elif self.group is None:
            self.after_train()
            raise SystemExit(EXIT_RESUMABLE)
        else:
            os._exit(EXIT_RESUMABLE)  # the others may wait for this process in any collective operation

    def after_step(self) -> None:
        done = self.trainer.iter + 1 >= self.trainer.max_iter
        if self.any_rank_requested():
            name = f"model_{self.trainer.iter:07d}"
            if not done and self.checkpointer.newest != f"{name}.pth":
                self.checkpointer.save(name, iteration=self.trainer.iter)
            logger.warning(
                "Stop requested: iteration %d is saved, exit code %d. The same command with --resume continues.",
                self.trainer.iter,
                EXIT_RESUMABLE,
            )
            comm.synchronize()  # not before the checkpoint is written: when one process ends, the others are ended too
            raise SystemExit(EXIT_RESUMABLE)
        self.all_saved = done

    def any_rank_requested(self) -> bool:
        if self.group is None:
            return self.stop_requested
        requested = torch.tensor(int(self.stop_requested))
        dist.all_reduce(requested, dist.ReduceOp.MAX, group=self.group)
        return bool(requested)

    def after_train(self) -> None:
        for number in list(self.handlers_before):
            self.restore(number)

    def restore(self, number: signal.Signals) -> None:
        if number in self.handlers_before:
            signal.signal(number, self.handlers_before.pop(number))


@contextmanager
def forward_signals() -> Iterator[None]:
    """Forward SIGTERM and SIGINT from the parent of several training processes to them; a second signal kills them.

    Raises:
        SystemExit: ``EXIT_RESUMABLE``, if a stop was requested or if the processes ended with this code.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, FORWARDED_SIGNAL if len(received) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield
    except torch.multiprocessing.ProcessExitedException as e:
        if received or e.exit_code == EXIT_RESUMABLE:
            raise SystemExit(EXIT_RESUMABLE) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
