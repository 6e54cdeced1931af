"""Evaluation of a model on labeled datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.data.build import build_test_loader
from prompt_das.evaluation.evaluator import EMEvaluator

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from torch import nn


def evaluate(cfg: CfgNode, model: nn.Module, names: tuple[str, ...], *, write: bool) -> dict[str, dict[str, Any]]:
    """Evaluate ``model`` on each named dataset -> results by name. Ranks other than 0 get empty results.

    Args:
        write: keep per-slice results, tables and pictures in ``OUTPUT_DIR/inference/<name>``.
    """
    results: dict[str, dict[str, Any]] = {}
    peaks = cfg.DOMAIN_ADAPT.POINTS
    for name in names:
        loader = build_test_loader(cfg, name)
        evaluator = EMEvaluator(
            name,
            protocols=cfg.TEST.PROTOCOLS,
            min_size=cfg.TEST.MIN_INSTANCE_SIZE,
            peaks=(peaks.THRESHOLD, peaks.KERNEL) if cfg.TEST.INSTANCES == "centers" else None,
            output_dir=Path(cfg.OUTPUT_DIR) / "inference" / name if write else None,
            save_rle=cfg.TEST.SAVE_RLE and write,
            num_pictures=cfg.TEST.NUM_PICTURES,
        )
        results[name] = inference_on_dataset(model, loader, evaluator)
    return results


def validate(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Evaluate ``DATASETS.VAL`` without files -> the results on its first dataset, which choose the best checkpoint."""
    return next(iter(evaluate(cfg, model, cfg.DATASETS.VAL, write=False).values()))


def test(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Evaluate ``DATASETS.TEST``; tables and pictures go to ``OUTPUT_DIR/inference``.

    Returns:
        the results on the dataset, or for several datasets their results by name.
    """
    results = evaluate(cfg, model, cfg.DATASETS.TEST, write=True)
    return next(iter(results.values())) if len(results) == 1 else results
