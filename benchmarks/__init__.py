"""What `python -m benchmarks` measures: a module for each of its commands.

Each module says in its docstring what is compared, and has the three functions of :class:`Benchmark`. A new one is
a module here, an entry in ``BENCHMARKS`` of __main__, and a word in the Makefile. One that has more to do
when the results are printed and written has ``conclude(args, machine, results)``, which may end with an exit code.

The other modules are what these are made of: measure, flops, and the parts of gpu (ceilings, training_iteration,
agreement, whole_slice).
"""

from __future__ import annotations

import argparse
from typing import Any, Protocol


class Benchmark(Protocol):
    """A module of this folder."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Options beside those that all commands share: ``--repeats``, ``--seed``, ``--threads``, ``--output``."""

    def run(self, args: argparse.Namespace) -> list[dict[str, Any]]:
        """Measure: a dict for each case, ready for JSON. Runs from a fresh clone, without data that are not named."""

    def report(self, results: list[dict[str, Any]]) -> str:
        """The results as Markdown."""
