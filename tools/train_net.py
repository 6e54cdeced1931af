#!/usr/bin/env python
"""Train Prompt-DAS, or evaluate a trained model.

tools/train_net.py --config-file configs/rat2human_wda.yaml
tools/train_net.py --config-file configs/rat2human_wda.yaml --eval-only MODEL.WEIGHTS output/model_final.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import prompt_das  # noqa: F401  (fills the registries; must come before Detectron2)
from prompt_das.engine.launch import launch
from prompt_das.engine.setup import setup_from_args
from prompt_das.engine.trainer import PromptDASTrainer
from prompt_das.modeling.load import load_weights

from detectron2.engine import default_argument_parser


def main(args: argparse.Namespace) -> dict[str, Any]:
    try:
        run = prepare(args)
    except (ValueError, OSError) as error:  # of a config, of weights, of data
        raise SystemExit(f"error: {error}") from error
    return run()


def prepare(args: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """What is to be done, with everything read that it begins with."""
    cfg = setup_from_args(args)
    if args.eval_only:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth")
        model = PromptDASTrainer.build_model(cfg)
        load_weights(cfg, model, cfg.MODEL.WEIGHTS)
        return partial(PromptDASTrainer.test, cfg, model)
    trainer = PromptDASTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train


if __name__ == "__main__":
    parser = default_argument_parser(epilog=__doc__)
    parser.set_defaults(dist_url="auto")  # Detectron2's own default is one port for all runs of a user
    args = parser.parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
