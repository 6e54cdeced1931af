"""Times of peers side by side, peak memory, and what machine it was."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import prompt_das

import torch

T = TypeVar("T")
CPU = torch.device("cpu")
NOT_REPEATED = 10.0  # seconds
PACKAGES = ("numpy", "opencv-python-headless", "zarr", "monai")  # what the peers are made of


def seconds(run: Callable[[], Any], device: torch.device = CPU) -> float:
    """Wall-clock time of ``run()``, to the end of what it started on the device."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Laps:
    """Seconds of the named parts of a round, each to the end of what it started on the device: ``laps(name, run)``."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, run: Callable[[], T]) -> T:
        answers: list[T] = []
        self.seconds.setdefault(name, []).append(seconds(lambda: answers.append(run()), self.device))
        return answers[0]


def interleaved(
    runs: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn so that what else the machine does falls on all alike.

    Every other round goes backwards. The first round warms up and does not count, except for a run of more than
    ``NOT_REPEATED`` seconds, which is measured that once.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name in in_turn(runs, turn):
            if not (times[name] and times[name][0] > NOT_REPEATED):
                times[name].append(seconds(runs[name], device))
    return {name: taken[1:] or taken for name, taken in times.items()}


def in_turn(names: Mapping[str, Any], turn: int) -> list[str]:
    """The names, backwards in every other turn."""
    return list(names)[:: -1 if turn % 2 else 1]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """How many times the others the values are: the median over rounds, or of medians if one was measured once."""
    if len(values) != len(others):
        return statistics.median(values) / statistics.median(others)
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def show(values: Mapping[str, float], digits: int, scale: float = 1.0) -> str:
    """A spread as "median (low–high)", or "value (n=1)"."""
    median, low, high = (f"{scale * values[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low}–{high})" if values["n"] > 1 else f"{median} (n=1)"


def peak_memory(run: Callable[[], Any], device: torch.device = CPU) -> int:
    """Bytes that ``run()`` needs at its peak beyond what was there before.

    On a GPU torch counts them. On a CPU it is the resident memory of the process, which Linux keeps the peak of and
    forgets on request: it holds what convolutions and numpy allocate as well. What was freed before and stayed with the
    process is not seen: measure in a fresh one.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM = VmRSS, see proc(5)
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def give_back_freed_memory() -> None:
    """Tell glibc to return freed blocks of 64 kB and more at once, so that resident memory is memory in use."""
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD


def in_fresh_process(call: Callable[..., Any], *arguments: Any, exact_memory: bool = False) -> Any:
    """Memory that was freed may stay with a process, and would hide what the next run needs.

    ``exact_memory``: measure memory to some kB; the process is up to twice as slow.
    """
    start = (torch.get_num_threads(), exact_memory)
    with ProcessPoolExecutor(1, get_context("spawn"), _start_process, start) as fresh:
        return fresh.submit(call, *arguments).result()


def _start_process(threads: int, exact_memory: bool) -> None:
    torch.set_num_threads(threads)
    if exact_memory:
        give_back_freed_memory()


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def machine(seed: int) -> dict[str, Any]:
    """Where and with what the numbers were taken."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 2),  # of the minute before
        "python": platform.python_version(),
        "torch": torch.__version__,
        "prompt_das": prompt_das.__version__,
        "packages": {name: _version(name) for name in PACKAGES},
        "seed": seed,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    gpu = machine["gpu"] or "no GPU"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {gpu}; torch {machine['torch']}, threads: "
        f"{machine['threads']}; seed {machine['seed']}; load of the minute before: {machine['load']}"
    )


def write(path: Path, machine: dict[str, Any], command: str, results: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, command: results}, indent=1) + "\n")
