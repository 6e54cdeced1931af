"""Reports of a comparison of label volumes: a table with the predictions side by side, and overlays of slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_das.evaluation import metrics
from prompt_das.evaluation.reports import PICTURE_SIDE
from prompt_das.utils.visualization import PREDICTION, TRUTH, draw_overlay, resize_labels, tile

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

ROWS = {
    "paper": ("Dice", "AJI", "PQ"),
    "instance": ("Dice", "AJI", "PQ"),
    "volume": (
        *("Dice", "AJI", "PQ", "AP-50", "AP-75", "accuracy-75"),
        *("instances", "median size", "merges", "splits"),
    ),
}
TITLES = {"paper": "slices, paper", "instance": "slices, instance", "volume": "3-D"}
UNITS = {"median size": "median size, voxels"}
COUNTED = ("instances", "merges", "splits", "median size")
COLUMNS = 4  # panels of a picture in one row
NO_IMAGE = 32  # gray of the background where there is no image


def table(results: Mapping[str, Any]) -> str:
    """Text table of :meth:`LabelComparison.results`: a row for each score, a column for each prediction.

    Scores that need instance ids are left out where the truth is a mask.
    """
    truth, predictions = results["truth"], results["predictions"]
    rows = []
    for part, names in ROWS.items():
        title = TITLES[part]
        for name in names:
            values = [scores.get(part, {}).get(name) for scores in predictions.values()]
            if any(value is not None for value in values):
                own = truth.get(name) if part == "volume" else None
                rows.append([title, UNITS.get(name, name), *(_text(name, value) for value in (own, *values))])
                title = ""
    head = ["", "", "truth", *predictions]
    return tabulate(rows, head, disable_numparse=True, colalign=("left", "left", *["right"] * (len(head) - 2)))


def picture(image: NDArray | None, truth: NDArray, predictions: Mapping[str, NDArray]) -> NDArray[np.uint8]:
    """Picture of a slice: the truth, then each prediction, outlined over the outlines of the truth.

    Args:
        image: (H, W) intensities 0..255, or None.
        truth, predictions: (H, W) label maps.

    Returns:
        (h, w, 3) RGB.
    """
    height, width = truth.shape
    scale = min(2.0, PICTURE_SIDE / max(height, width))
    background = np.full(truth.shape, NO_IMAGE, np.uint8) if image is None else np.clip(image, 0, 255)
    with_truth = draw_overlay(background, truth, color=TRUTH, scale=scale)
    panels = {"Truth": with_truth}
    for name, labels in predictions.items():
        dice = 100 * metrics.dice(truth, labels)
        resized = resize_labels(labels, (with_truth.shape[0], with_truth.shape[1]))
        panels[f"{name}: Dice {dice:.1f} %"] = draw_overlay(with_truth, resized, color=PREDICTION)
    columns = math.ceil(len(panels) / math.ceil(len(panels) / COLUMNS))
    return tile(list(panels.values()), list(panels), columns=columns, legend={"truth": TRUTH, "prediction": PREDICTION})


def slices_to_draw(counts: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]], number: int) -> list[int]:
    """Slices with a true instance, from the best to the worst by the mean Dice of the predictions, evenly spaced.

    Args:
        counts: of each slice: name of the prediction -> protocol -> counts.
        number: 3 are best, median and worst.
    """
    dice = [float(np.mean([metrics.scores(one["paper"])["Dice"] for one in names.values()])) for names in counts]
    with_truth = [z for z, names in enumerate(counts) if any(one["paper"]["true_pixels"] for one in names.values())]
    ranked = sorted(with_truth, key=lambda z: -dice[z])
    chosen = np.unique(np.linspace(0, len(ranked) - 1, min(number, len(ranked))).astype(int))
    return [ranked[position] for position in chosen.tolist()]


def _text(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "-"
    return f"{value:g}" if name in COUNTED else f"{value:.2f}"
