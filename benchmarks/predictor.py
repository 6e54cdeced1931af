"""Interactive use: the first answer on a slice, a click, undoing it, and stepping back to the slice before.

`Predictor` with random weights on random pixels. On a slice as large as one window the first
answer is encode + decode, and a click is decode. A large slice, of which a viewer shows a part, tells what a user waits
for: looking up the slice, blending and copying are in it.
"""

from __future__ import annotations

import argparse
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.modeling.load import build_model
from prompt_das.modeling.precision import computed_precision

import numpy as np
import torch
from tabulate import tabulate

from .measure import NOT_REPEATED, seconds, show, spread
from .model import CONFIG_OF_SIZE, POINTS_PER_IMAGE

ASKED = ("first answer", "click", "undo", "slice before")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", choices=list(CONFIG_OF_SIZE), default=list(CONFIG_OF_SIZE))
    parser.add_argument("--slice", type=int, default=4096, help="side of the large slice in pixels")
    parser.add_argument("--view", type=int, default=1024, help="side of the part of it that is shown")
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the config, after --: KEY VALUE ...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    for size in args.size:
        predictor = build_predictor(size, args.seed, args.opts)
        window = round(predictor.cfg.INPUT.CROP_SIZE / predictor.cfg.INPUT.SCALE)
        for side, view in ((window, window), (args.slice, args.view)):
            results.append({"size": size, **benchmark(predictor, side, view, args.repeats, args.seed)})
    return results


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            r["size"],
            f"{r['slice']}²",
            f"{r['view']}²",
            r["windows"],
            show(r["seconds"]["first answer"], 2),
            show(r["seconds"]["click"], 0, 1e3),
            show(r["windows of a click"], 0),
            f"{r['click / first answer']:.1%}",
            show(r["seconds"]["undo"], 0, 1e3),
            show(r["seconds"]["slice before"], 0, 1e3),
        ]
        for r in results
    ]
    header = ["size", "slice", "shown", "windows", "first answer, s", "click, ms", "its windows"]
    header += ["of the first answer", "undo, ms", "slice before, ms"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def build_predictor(size: str, seed: int, opts: list[str]) -> Predictor:
    cfg = get_prompt_das_cfg(str(CONFIG_OF_SIZE[size]), ["MODEL.VIT.WEIGHTS", "", *opts])
    torch.manual_seed(seed)
    return Predictor.from_model(cfg, build_model(cfg))


def benchmark(predictor: Predictor, side: int, view: int, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of what a user does, the middle ``view``² pixels of a slice of ``side``² being shown.

    Each round takes a new slice, but not after a first answer of more than ``NOT_REPEATED`` seconds: then only what
    follows is repeated, on the two slices that there are. The first round warms up and does not count.
    """
    rng = np.random.default_rng(seed)
    low, high = (side - view) // 2, (side + view) // 2
    window = predictor.cfg.INPUT.CROP_SIZE / predictor.cfg.INPUT.SCALE
    before = rng.uniform(low, high, (max(1, round(POINTS_PER_IMAGE * (view / window) ** 2)), 2))
    times: dict[str, list[float]] = {name: [] for name in ASKED}
    windows_of_a_click = []

    def ask(name: str, points: np.ndarray, image: np.ndarray) -> int:
        """Predict, take the time, and return the number of windows that it took."""
        windows = 0

        def predict() -> None:
            nonlocal windows
            windows = predictor.predict(points, image=image, region=(low, low, high, high)).total

        times[name].append(seconds(predict, predictor.device))
        return windows

    def new_image() -> np.ndarray:
        return rng.integers(0, 256, (side, side), dtype=np.uint8)

    image, is_slow = new_image(), False
    ask("first answer", before, image)
    for _ in range(repeats + 1):
        if not is_slow:
            previous, image = image, new_image()
            windows = ask("first answer", before, image)
            is_slow = times["first answer"][-1] > NOT_REPEATED
        windows_of_a_click.append(ask("click", np.concatenate([before, rng.uniform(low, high, (1, 2))]), image))
        ask("undo", before, image)
        ask("slice before", before, previous)
        previous, image = image, previous

    taken = {name: spread(values[1:]) for name, values in times.items()}
    return {
        "slice": side,
        "view": view,
        "windows": windows,
        "precision": computed_precision(predictor.cfg.MODEL.PRECISION, predictor.device),
        "seconds": taken,
        "windows of a click": spread(windows_of_a_click[1:]),
        "click / first answer": taken["click"]["median"] / taken["first answer"]["median"],
    }
