"""Evaluate a trained model."""

from __future__ import annotations

import argparse

from prompt_das.cli import train
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.physical_scale import require_one_volume, with_diameter


def run(args: argparse.Namespace) -> None:
    if args.weights:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    if args.diameter is not None:
        cfg = get_prompt_das_cfg(args.config_file, args.opts)
        require_one_volume(cfg.DATASETS.TEST)
        args.opts = [*args.opts, *with_diameter(cfg, args.diameter)]
    train.run(args)
