"""Adapt weights to a volume."""

from __future__ import annotations

import argparse
import logging

from prompt_das.cli.input_volume import input_volume, overrides
from prompt_das.engine.adapt import Adaptation, adapt

from detectron2.utils.logger import setup_logger


def run(args: argparse.Namespace) -> None:
    show_warnings_only()
    done = adapt(
        args.weights,
        input_volume(args),
        args.output,
        source=args.source,
        minutes=args.minutes,
        seed=args.seed,
        resume=args.resume,
        overwrite=args.overwrite,
        opts=overrides(args),
        plugins=args.plugin,
    )
    print(f"{args.output}: {describe(done)} ({done.iterations} iterations, {done.minutes:.1f} minutes)")


def show_warnings_only() -> None:
    """Set up the loggers of a training so that its bar stays readable."""
    for name in ("prompt_das", "detectron2", "fvcore"):
        for handler in setup_logger(name=name).handlers:
            handler.setLevel(logging.WARNING)


def describe(done: Adaptation) -> str:
    """What came of an adaptation, in half a sentence."""
    if done.before is None:
        return "the last weights; no clicks watched the adaptation, so look at the result"
    after = "none" if done.after is None else f"{done.after:.3f}"
    scores = f"score at the held-out clicks {done.before:.3f} before, {after} after"
    if done.settings:
        settings = ", ".join(map(" ".join, zip(done.settings[::2], done.settings[1::2], strict=True)))
        scores += f"; found for this volume: {settings}"
    unchanged = "the weights as they were, since the adapted ones are worse at these clicks: "
    return scores if done.adapted else unchanged + scores
