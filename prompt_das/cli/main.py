"""Dispatch to the commands, and errors as one line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager


def run(args: argparse.Namespace) -> None:
    """Run the command ``args.command``.

    Raises:
        SystemExit: what the command was given is wrong, with one line that begins with "error: ".
    """
    with one_line_errors():
        importlib.import_module(f"prompt_das.cli.{args.command.replace('-', '_')}").run(args)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what is wrong with arguments, configs, weights and data, or with numbers that do not stay finite, into
    an exit with one line and code 1."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
