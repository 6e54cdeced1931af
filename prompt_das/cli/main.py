"""Dispatch to the commands, and the one place where an error becomes a line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def run(args: argparse.Namespace) -> None:
    """Run the command ``args.command``.

    Raises:
        SystemExit: what the command was given is wrong, with one line that begins with "error: ".
    """
    with one_line_errors():
        if getattr(args, "config_file", None):
            args.config_file = find_config(args.config_file)
        importlib.import_module(f"prompt_das.cli.{args.command.replace('-', '_')}").run(args)


def find_config(name: str | Path) -> str:
    """A config's file: ``name`` if there is such a file, else that of a config which comes with the package.

    "quick/vnc2lucchi_wda" is ``configs/quick/vnc2lucchi_wda.yaml``, whatever the working directory. A name that is
    neither is returned as it is: reading it says what is wrong.
    """
    ours = CONFIGS / f"{str(name).removesuffix('.yaml').removeprefix('configs/')}.yaml"
    return str(ours if not Path(name).exists() and ours.is_file() else name)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what is wrong with arguments, configs, weights and data, or with numbers that do not stay finite, into
    an exit with one line and code 1."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
