"""An entry point for files, and what all kinds share: a small volume, a command, a pickle that runs a program."""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das_cli import main

import numpy as np
import torch

SEED = 0
ROOT = Path(__file__).parents[2]
ALWAYS = frozenset({"cut", "flip", "flip_in_header", "overwrite", "insert"})
RUBBISH = random.Random(SEED).randbytes(5000)

SHAPE = (3, 40, 48)
IMAGES = np.random.default_rng(SEED).integers(0, 255, SHAPE).astype(np.uint8)
LABELS = np.kron(np.random.default_rng(SEED).integers(0, 2, (3, 5, 6)), np.ones((1, 8, 8))).astype(np.uint16)
LABELS *= np.arange(1, 1 + LABELS.size, dtype=np.uint16).reshape(SHAPE) // 300 + 1
NAMES = [f"im{z}.png" for z in range(3)]


@dataclass(frozen=True)
class EntryPoint:
    """A function that reads files of a user.

    Attributes:
        write: makes a folder with all that is needed; returns the files that are damaged.
        run: what a user does with the folder -> the result, nested lists, dicts, arrays, tensors.
        certain: damage that never gives another result.
        allowed: (result, true result): whether the format's rules permit this other result.
        hostile: name -> content of the first file, always to be refused.
        read_elsewhere: whether another entry point gets the same hostile files and reads them with the same function.
    """

    write: Callable[[Path, list[str]], list[Path]]
    run: Callable[[Path], Any]
    certain: frozenset[str] = ALWAYS
    allowed: Callable[[Any, Any], bool] = lambda result, true: False
    hostile: Callable[[Path], dict[str, bytes]] = lambda canary: {}
    read_elsewhere: bool = False


def command(*arguments: str) -> str:
    """Run a command -> what it prints; an exit that is not 0 is a ValueError with it. No traceback may come out."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as exit_:
            if exit_.code not in (None, 0):
                raise ValueError(f"{exit_.code} {said.getvalue()}") from None
    return said.getvalue()


class Hostile:
    """Unpickling it runs a program that leaves a file."""

    def __init__(self, canary: Path, call: Callable = os.system) -> None:
        self.call = call
        self.code = f"touch {canary}" if call is os.system else f"open({str(canary)!r}, 'w')"

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call, (self.code,)


def same(a: Any, b: Any) -> bool:
    """Equal to the bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return bool(a == b)
