"""Dice, AJI and PQ of a slice together: prompt_das.evaluation.metrics against one boolean mask per instance.

Both use one core.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from prompt_das.evaluation.metrics import evaluate_slice

import cv2
import numpy as np
from tabulate import tabulate

from . import one_mask_per_instance
from .measure import interleaved, ratio, show, spread

DENSITY = 470 / 4096**2  # instances per pixel of MitoEM
OURS, PEER = "prompt_das", "one mask per instance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", type=int, default=[1024, 4096], help="sides of the slices in pixels")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [benchmark_metrics(size, args.repeats, args.seed) for size in args.size]


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{r['size']}²",
            r["instances"],
            show(r["seconds"][OURS], 1, 1e3),
            show(r["seconds"][PEER], 2),
            f"{r['ratio']:.0f} ×",
            f"{r['largest difference']:.0e}",
        ]
        for r in results
    ]
    header = ["slice", "instances", f"{OURS}, ms", f"{PEER}, s", "ratio", "largest difference of a score"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def benchmark_metrics(size: int, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of all three metrics together, on label maps as dense as MitoEM's."""
    true, pred = label_maps(size, max(1, round(DENSITY * size**2)), np.random.default_rng(seed))
    found: dict[str, dict[str, float]] = {}
    times = interleaved(
        {
            OURS: lambda: found.update(ours=evaluate_slice(true, pred)),
            PEER: lambda: found.update(peer=one_mask_per_instance.scores(true, pred)),
        },
        repeats,
    )
    return {
        "size": size,
        "instances": len(np.unique(true)) - 1,
        "predicted instances": len(np.unique(pred)) - 1,
        "scores": found["peer"],
        "seconds": {name: spread(taken) for name, taken in times.items()},
        "ratio": ratio(times[PEER], times[OURS]),
        "largest difference": max(abs(found["ours"][name] - value) for name, value in found["peer"].items()),
    }


def label_maps(size: int, instances: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses on a grid, 6 % of the pixels, and a prediction that errs: two int32 maps (size, size).

    Of ten instances one is missed, one has the id of the instance before it, and beside one is a false alarm; the
    others are moved and scaled a little.
    """
    true, pred = np.zeros((2, size, size), np.int32)
    columns = math.ceil(math.sqrt(instances))
    pitch = size / columns
    for i, cell in enumerate(rng.permutation(columns**2)[:instances].tolist(), start=1):
        center = (np.array([cell % columns, cell // columns]) + rng.uniform(0.4, 0.6, 2)) * pitch
        axes, angle, fate = rng.uniform(0.1, 0.18, 2) * pitch, rng.uniform(0, 180), rng.random()
        draw_ellipse(true, center, axes, angle, i)
        if fate > 0.1:
            moved, scaled = center + rng.normal(0, 0.02, 2) * pitch, axes * rng.uniform(0.9, 1.15, 2)
            draw_ellipse(pred, moved, scaled, angle, i - 1 if i > 1 and fate < 0.2 else i)
        if fate > 0.9:
            draw_ellipse(pred, center + 0.35 * pitch, axes / 3, angle, instances + i)
    return true, pred


def draw_ellipse(labels: np.ndarray, center: np.ndarray, axes: np.ndarray, angle: float, value: int) -> None:
    x, y = center.round().astype(int).tolist()
    cv2.ellipse(labels, (x, y), np.maximum(axes, 1).round().astype(int).tolist(), angle, 0, 360, value, cv2.FILLED)
