"""Repeat a training step that was skipped: which loss, and which layers, are not finite?"""

from __future__ import annotations

import argparse

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.hooks.nonfinite_guard import replay
from prompt_das.modeling.load import build_model


def run(args: argparse.Namespace) -> None:
    config = args.config_file or args.batch.resolve().parents[1] / "config.yaml"
    own = ["MODEL.VIT.WEIGHTS", "", "MODEL.WEIGHTS", "", "DATASETS.VOLUMES", "()"]  # the weights are in the file
    try:
        cfg = get_prompt_das_cfg(str(config), [*own, *args.opts])
        names, losses, bad = replay(build_model(cfg), args.batch)
    except (KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    print("\n".join(names))
    print("\n".join(f"{name:20} {value:.6g}" for name, value in losses.items()))
    print(f"gradients that are not finite: {', '.join(bad) or 'none'}")
