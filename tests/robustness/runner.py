"""Entry points run on damaged files, in a process of their own, and the classification of each result."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import config_entry_points
import point_entry_points
import volume_entry_points
import weight_entry_points
from entry_point import EntryPoint, same
from prompt_das.data import datasets

import torch
from detectron2.data import DatasetCatalog

SECONDS = 60  # for one file: most take a tenth of one, but a machine may be busy
MEMORY = 4 << 30  # more than the process has when it begins
EXECUTED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")

ENTRY_POINTS: dict[str, EntryPoint] = {
    **volume_entry_points.ENTRY_POINTS,
    **point_entry_points.ENTRY_POINTS,
    **config_entry_points.ENTRY_POINTS,
    **weight_entry_points.ENTRY_POINTS,
}


def classify(entry_point: EntryPoint, folder: Path, true: Any, damage: str) -> str:
    """The result for a folder: "refused", "right", "allowed", or a description of the defect."""
    try:
        found = entry_point.run(folder)
    except (ValueError, OSError) as error:
        return "refused" if str(folder) in str(error) else f"{type(error).__name__} names no file: {error}"
    except BaseException:  # noqa: BLE001  (that is what is looked for)
        return f"uncaught: {traceback.format_exc()}"
    if damage == "hostile":
        return "accepted"
    if isinstance(found, list) and any(part is None for part in found) and len(found) == len(true):
        true = [None if part is None else whole for part, whole in zip(found, true, strict=True)]
    if same(found, true):
        return "right"
    return (
        "allowed"
        if damage not in entry_point.certain and entry_point.allowed(found, true)
        else f"wrong: {found!r:.500}"
    )


def run_cases(name: str, pipe: Any) -> None:
    """Run one entry point on each folder that comes through ``pipe``, and send back its class."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    known = set(DatasetCatalog.list())
    executed: list[str] = []
    sys.addaudithook(lambda event, args: executed.append(f"{event} {args}") if event in EXECUTED else None)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + MEMORY, -1))
    true: Any = None
    while (case := pipe.recv()) is not None:
        folder, damage = case
        with contextlib.redirect_stderr(io.StringIO()):
            if damage == "none":
                true = ENTRY_POINTS[name].run(folder)
                pipe.send("right")
            else:
                executed.clear()
                result = classify(ENTRY_POINTS[name], folder, true, damage)
                pipe.send(f"executed {executed}" if executed else result)
        for new in set(DatasetCatalog.list()) - known:
            datasets.unregister(new)


class Runner:
    """The parent's side: a process that runs cases, started again after a crash or a timeout."""

    def __init__(self, name: str, whole: Path, start_process: Callable[..., Any]) -> None:
        self.name, self.whole, self.start_process = name, whole, start_process
        self.start()

    def start(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = self.start_process(run_cases, self.name, theirs, daemon=True)
        theirs.close()
        assert self.run(self.whole, "none", 120) == "right"

    def run(self, folder: Path, damage: str, seconds: float = SECONDS) -> str:
        try:
            self.pipe.send((folder, damage))
            if self.pipe.poll(seconds):
                return self.pipe.recv()
            result = f"not finished after {seconds} s"
        except (EOFError, BrokenPipeError):
            result = "the process died"
        self.process.kill()
        if damage != "none":
            self.start()
        return result

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(None)
        self.process.join(10)
        self.process.kill()
