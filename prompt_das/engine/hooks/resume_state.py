"""State that a resumed run needs beside weights and optimizer to be the same run: random numbers and metrics."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

TIMINGS = ("time", "data_time", "rank_data_time", "eta_seconds")  # of the machine, not of the run
WINDOW = 20  # number of last values that Detectron2's writers take medians of


class RandomState(HookBase):
    """The states of the random numbers of torch, NumPy and Python, as checkpointed by rank 0.

    The data do not need them, see data/build.py; a component of the user's own, with dropout for example, does.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        name, keys, *rest = np.random.get_state()  # noqa: NPY002  (the global state, which other code may use)
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "python": random.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state

    def before_train(self) -> None:
        """Set the loaded state. Not earlier: what happens between loading and training may draw numbers too."""
        if not self.loaded:
            return
        torch.set_rng_state(self.loaded["torch"])
        if self.loaded["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.loaded["cuda"])
        name, keys, *rest = self.loaded["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        random.setstate(self.loaded["python"])
        self.loaded = {}


class MetricsState(HookBase):
    """The last values of all metrics, and the number of lines in ``metrics.json``.

    Without it, the medians after a resume would be of fewer values, and lines of iterations that are done again would
    be there twice.
    """

    def __init__(self, path: Path, writers: list[EventWriter]) -> None:
        """``path``: ``metrics.json``; ``writers``: those of the run, none on ranks other than 0."""
        self.path = path
        self.writers = [writer for writer in writers if isinstance(writer, JSONWriter | TensorboardXWriter)]
        self.loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        if not hasattr(self.trainer, "storage"):
            return {}
        hints = self.trainer.storage.smoothing_hints()
        return {
            "values": {
                name: {"last": list(history.values()[-WINDOW:]), "smooth": hints[name]}
                for name, history in self.trainer.storage.histories().items()
                if name not in TIMINGS
            },
            "lines": len(self.lines()),
            "written": {type(writer).__name__: writer._last_write for writer in self.writers},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state

    def before_train(self) -> None:
        if not self.loaded:
            return
        storage = self.trainer.storage
        for name, history in self.loaded["values"].items():
            for value, iteration in history["last"]:
                storage.iter = int(iteration)
                storage.put_scalar(name, value, smoothing_hint=history["smooth"])
        storage.iter = self.trainer.start_iter
        for writer in self.writers:
            writer._last_write = self.loaded["written"].get(type(writer).__name__, writer._last_write)
        lines = self.lines()
        if self.writers and len(lines) > self.loaded["lines"]:
            os.truncate(self.path, sum(map(len, lines[: self.loaded["lines"]])))
        self.loaded = {}

    def lines(self) -> list[bytes]:
        """The lines of ``metrics.json``, with their ends."""
        return self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
