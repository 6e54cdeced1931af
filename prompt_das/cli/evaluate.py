"""Evaluate a trained model, or finished segmentations of any tool."""

from __future__ import annotations

import argparse
from functools import partial

from prompt_das.cli import train
from prompt_das.data.datasets import register_config_volumes
from prompt_das.data.physical_scale import require_one_volume, with_diameter
from prompt_das.engine.compare_labels import compare_labels
from prompt_das.engine.outline import outline_of_diameter
from prompt_das.engine.setup import config_of_args
from prompt_das.evaluation import comparison_report
from prompt_das.inference.volume.source import VolumeSource

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from tqdm import tqdm


def run(args: argparse.Namespace) -> None:
    if require_one_use(args):
        return compare(args)
    if args.weights:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    if args.diameter is not None:
        cfg = config_of_args(args, args.opts)
        require_one_volume(cfg.DATASETS.TEST)
        scale = with_diameter(cfg, args.diameter)
        args.opts = [*args.opts, *outline(cfg, args), *scale]
    train.run(args)


def outline(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """Where outlines lie in the volume that is evaluated (KEY, VALUE), by its diameter; nothing without weights."""
    if not cfg.MODEL.WEIGHTS or not cfg.DATASETS.TEST:
        return []
    setup_logger(name="prompt_das", abbrev_name="prompt_das")  # the run sets it up anew
    register_config_volumes(cfg)
    volume = VolumeSource(cfg.DATASETS.TEST[0], diameter=args.diameter)
    return outline_of_diameter(
        cfg.MODEL.WEIGHTS, volume, config_file=args.config_file, opts=args.opts, plugins=args.plugin
    )


def require_one_use(args: argparse.Namespace) -> bool:
    """Whether label volumes are compared, or else a model is evaluated. Raises ValueError for a mixture of both."""
    of_labels = {"--truth": args.truth, "--output": args.output}
    if not args.predictions:
        given = [option for option, value in of_labels.items() if value]
        if given:
            raise ValueError(f"{given[0]} belongs to --predictions: add --predictions PATH, or leave it out")
        return False
    of_models = {
        "--config-file": args.config_file,
        "--weights": args.weights,
        "--plugin": args.plugin,
        "--clicks": args.clicks,
        "--diameter": args.diameter is not None,
        "--num-gpus": args.num_gpus != 1,
        "--num-machines": args.num_machines != 1,
        f"'{' '.join(args.opts)}'": args.opts,
    }
    given = [option for option, value in of_models.items() if value]
    if given:
        raise ValueError(
            f"--predictions compares finished label volumes, {given[0]} is of the evaluation of a model: leave out one"
        )
    if not args.truth:
        raise ValueError("--predictions needs --truth: the labels, or the YAML of the volume, to compare with")
    return True


def compare(args: argparse.Namespace) -> None:
    results = compare_labels(
        args.truth,
        args.predictions,
        output=args.output,
        num_pictures=args.pictures,
        progress=partial(tqdm, desc="Comparing", unit="slice"),
    )
    print(f"{args.truth}, {' x '.join(map(str, results['shape']))} voxels, scores in %:\n")
    print(comparison_report.table(results))
    for note in results["notes"]:
        print(f"\nNote: {note}.")
    if args.output is not None:
        print(f"\n{args.output}: summary.json and pictures")
