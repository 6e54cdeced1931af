"""Train a model, or evaluate one, in one process or several."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from prompt_das.cli.main import one_line_errors
from prompt_das.engine import evaluate, evaluate_clicks, run_folder
from prompt_das.engine.launch import launch
from prompt_das.engine.setup import setup_from_args
from prompt_das.engine.trainer import build_trainer
from prompt_das.modeling.load import build_model, load_weights


def run(args: argparse.Namespace) -> None:
    launch(run_process, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))


def run_process(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or evaluate, in this process, one of several perhaps -> results of the evaluation."""
    with one_line_errors():  # each process has its own: an exception would bring its traceback along
        work = prepare(args)
    return work()


def prepare(args: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Read config, weights and data -> the training or the evaluation, still to be called."""
    cfg = setup_from_args(args)
    if args.eval_only:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth")
        if args.clicks and args.num_gpus * args.num_machines > 1:
            raise ValueError("--clicks works in one process; leave out --num-gpus and --num-machines")
        model = build_model(cfg)
        load_weights(cfg, model, cfg.MODEL.WEIGHTS)
        return partial(evaluate_clicks.test if args.clicks else evaluate.test, cfg, model)
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    run_folder.start(cfg, overwrite=args.overwrite and not args.resume)
    return trainer.train
