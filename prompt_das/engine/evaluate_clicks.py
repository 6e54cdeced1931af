"""Evaluation of an interactive user: the curve against clicks, and what one click does, for one model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_das.data.build import get_slices
from prompt_das.data.physical_scale import NetworkScale
from prompt_das.data.slices import read_image, read_labels
from prompt_das.evaluation import reports
from prompt_das.evaluation.clicks import (
    USERS,
    click_curve,
    single_click_effects,
    summarize_curves,
    summarize_effects,
)
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.modeling.meta_arch import PromptDAS

import numpy as np
from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

logger = logging.getLogger(__name__)

NUMBERS = (0, 1, 2, 5, 10, 20)  # of clicks on a slice
SCORES = ("Dice", "PQ")


def evaluate_clicks(cfg: CfgNode, model: PromptDAS, name: str) -> dict[str, Any]:
    """Click on every slice of a labeled dataset.

    Returns:
        ``{"curves": {user: {number of clicks: scores in percent}}, "effects": {...}}``, see
        :mod:`prompt_das.evaluation.clicks`.
    """
    predictor, scale = Predictor.from_model(cfg, model), NetworkScale.from_config(cfg)
    curves: dict[str, list[dict[int, dict[str, float]]]] = {user: [] for user in USERS}
    effects = []
    for dataset_dict in tqdm(get_slices((name,)), f"Clicking on {name}", unit="slice"):
        truth = read_labels(dataset_dict) > 0
        predictor.set_image(read_image(dataset_dict), (0, 255), scale=scale.of_slice(dataset_dict))

        def predict(clicks: np.ndarray) -> np.ndarray:
            return predictor.predict(clicks[:, :2], clicks[:, 2]).probability

        effects.append(single_click_effects(predict, truth))
        for user, settings in USERS.items():
            rng = np.random.default_rng([cfg.TEST.PROMPT_SEED, dataset_dict["slice"]])
            curves[user].append(click_curve(predict, truth, NUMBERS, settings, rng))
    return {
        "curves": {user: summarize_curves(of_slices) for user, of_slices in curves.items()},
        "effects": summarize_effects(effects),
    }


def test(cfg: CfgNode, model: PromptDAS) -> dict[str, Any]:
    """Click on ``DATASETS.TEST``; tables and a plot go to ``OUTPUT_DIR/inference`` -> the results by dataset."""
    results = {}
    for name in cfg.DATASETS.TEST:
        results[name] = evaluate_clicks(cfg, model, name)
        report(results[name], Path(cfg.OUTPUT_DIR) / "inference" / name)
    return results


def report(results: Mapping[str, Any], folder: Path) -> None:
    """Log the tables, and write ``clicks.json`` and the plot ``clicks.png``."""
    rows = [
        [number, *(curve[number][score] for curve in results["curves"].values() for score in SCORES)]
        for number in next(iter(results["curves"].values()))
    ]
    head = ["clicks a slice", *(f"{user}: {score}" for user in results["curves"] for score in SCORES)]
    logger.info("Mean of the slices, in %%:\n%s", tabulate(rows, head, floatfmt=".1f"))
    logger.info("One click:\n%s", tabulate(results["effects"].items(), floatfmt=".1f"))
    reports.write_json(folder / "clicks.json", results)
    reports.write_bytes(folder / "clicks.png", reports.click_plot({"": results["curves"]}))
