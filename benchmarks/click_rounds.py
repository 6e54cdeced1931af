"""A user who clicks where the tool proposes, adapts, and clicks again: what each round gains, beside the clicks alone.

The truth says whether a proposed place is an object (label 1) or none (label 0). After each round the network is
adapted from the weights to all clicks so far. Scores are means over all slices of the volume that is clicked on, in
percent. The clicks of a round also prompt the predictions of its row, but for those of "adapted, no prompts".
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_das.adaptation.proposals import Proposal
from prompt_das.data.datasets import find_volume
from prompt_das.data.slices import read_image, read_labels
from prompt_das.engine.adapt import adapt
from prompt_das.engine.outline import outline_of_diameter
from prompt_das.engine.propose import propose_clicks
from prompt_das.evaluation.metrics import evaluate_slice
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.ops.connected_components import connected_components
from prompt_das.volumes.point_files import SliceClicks, write_points

import numpy as np
from tabulate import tabulate

NO_CLICKS: SliceClicks = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="em-small", help="(default: %(default)s)")
    parser.add_argument("--dataset", required=True, help="labeled volume, by its name")
    parser.add_argument("--diameter", type=float, help="of its objects, in pixels; default: its voxel size is known")
    parser.add_argument("--clicks", type=int, default=20, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=150, help="of an adaptation (default: %(default)s)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    slices, spec = find_volume(args.dataset)
    pixel_size = spec.voxel_size[2] if spec.voxel_size and args.diameter is None else None
    volume = VolumeSource(args.dataset, diameter=args.diameter)
    outline = outline_of_diameter(args.weights, volume)
    start = Predictor(args.weights, pixel_size=pixel_size, diameter=args.diameter, opts=outline)
    results = [{"clicks": 0, "minutes": 0.0, "clicks alone": score(start, slices, NO_CLICKS)}]
    weights, opts, proposed, minutes = args.weights, outline, [], 0.0
    with tempfile.TemporaryDirectory() as name:
        points, folder = None, Path(name)
        for _ in range(args.rounds):
            clicked = VolumeSource(args.dataset, points=points, diameter=args.diameter)
            proposed += propose_clicks(weights, clicked, args.clicks, opts=opts, progress=False)
            clicks = label(proposed, slices)
            points = folder / "clicks.json"
            write_points(points, clicks)
            begun = time.perf_counter()
            adapted = adapt(
                args.weights,
                VolumeSource(args.dataset, points=points, diameter=args.diameter),
                folder / f"{len(proposed)}.safetensors",
                seed=args.seed,
                opts=["SOLVER.MAX_ITER", str(args.iterations)],
                progress=False,
            )
            minutes += (time.perf_counter() - begun) / 60
            weights, opts = str(adapted.output), []
            predictor = Predictor(weights, pixel_size=pixel_size, diameter=args.diameter)
            results.append(
                {
                    "clicks": len(proposed),
                    "minutes": minutes,
                    "clicks alone": score(start, slices, clicks),
                    "adapted": score(predictor, slices, clicks),
                    "adapted, no prompts": score(predictor, slices, NO_CLICKS),
                }
            )
    return results


def report(results: list[dict[str, Any]]) -> str:
    columns = ("clicks alone", "adapted", "adapted, no prompts")
    rows = [
        [
            r["clicks"],
            f"{r['minutes']:.1f}",
            *("{:.1f} / {:.1f}".format(*r[name]) if name in r else "" for name in columns),
        ]
        for r in results
    ]
    header = ["clicks", "minutes of adaptation", *(f"{name}: Dice / PQ" for name in columns)]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def label(places: Sequence[Proposal], slices: Sequence[dict[str, Any]]) -> SliceClicks:
    """Proposed places -> clicks (n, 3) by slice: x, y, and whether there is an object."""
    dict_of = {dataset_dict["slice"]: dataset_dict for dataset_dict in slices}
    clicks: dict[int, list[list[float]]] = {}
    for place in places:
        truth = read_labels(dict_of[place.z])
        clicks.setdefault(place.z, []).append([place.x, place.y, float(truth[int(place.y), int(place.x)] > 0)])
    return {z: np.array(rows, np.float32) for z, rows in clicks.items()}


def score(predictor: Predictor, slices: Sequence[dict[str, Any]], clicks: SliceClicks) -> tuple[float, float]:
    """Dice and PQ in percent, means over slices, with these clicks as prompts."""
    each = []
    for dataset_dict in slices:
        on_slice = clicks.get(dataset_dict["slice"], np.zeros((0, 3), np.float32))
        answer = predictor.predict(on_slice[:, :2], on_slice[:, 2], image=read_image(dataset_dict))
        truth = connected_components(read_labels(dataset_dict) > 0)
        each.append(evaluate_slice(truth, answer.instances))
    dice, pq = (100 * float(np.mean([one[metric] for one in each])) for metric in ("Dice", "PQ"))
    return dice, pq
