"""Evaluate a trained model."""

from __future__ import annotations

import argparse

from prompt_das.cli import train


def run(args: argparse.Namespace) -> None:
    if args.weights:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    train.run(args)
