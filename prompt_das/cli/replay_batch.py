"""Repeat a training step that was skipped: which loss, and which layers, are not finite?"""

from __future__ import annotations

import argparse

from prompt_das.engine.hooks.nonfinite_guard import replay
from prompt_das.modeling.load import build_model, config_of_weights


def run(args: argparse.Namespace) -> None:
    beside = args.batch.resolve().parents[1] / "config.yaml"  # batches lie in a folder of the run's
    try:
        cfg = config_of_weights(
            args.batch, args.config_file, ["MODEL.WEIGHTS", "", *args.opts], args.plugin, beside=beside
        )
        names, losses, bad = replay(build_model(cfg), args.batch)
    except (KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    print("\n".join(names))
    print("\n".join(f"{name:20} {value:.6g}" for name, value in losses.items()))
    print(f"gradients that are not finite: {', '.join(bad) or 'none'}")
