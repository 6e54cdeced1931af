"""Instances of a volume in which mitochondria touch: connected components against those split at centers.

Synthetic volumes (prompt_das/volumes/synthetic.py) whose instances are widened until they touch. Probability and
density are rendered from the truth, as a perfect network would predict them, and with its usual faults: blurred and
bumpy masks, centers that are off, weak, missed, or two in one instance, in each slice for itself. At contacts the
probability does not dip.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.evaluation.metrics import contingency_table, panoptic_quality
from prompt_das.inference.volume.block_labels import InstanceRule
from prompt_das.inference.volume.center_instances import CenterRule
from prompt_das.inference.volume.instances import label_instances
from prompt_das.inference.volume.store import STORE, StoreLayout, prepare_store
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE
from prompt_das.ops.points import PEAK_THRESHOLD, instance_centers, render_density
from prompt_das.volumes.ome_zarr import INSTANCES, finest
from prompt_das.volumes.synthetic import SLICE_DISTANCE, make_synthetic_volume

import numpy as np
import scipy.ndimage
import torch
import zarr
from tabulate import tabulate

KERNEL = 5


@dataclass(frozen=True)
class Faults:
    """Faults of a simulated network, in pixels, in units of the density, or as shares of the centers."""

    blur: float = 0.0
    bumps: float = 0.0  # standard deviation of the noise of the probability
    off: float = 0.0  # standard deviation of a center's place, in sigmas
    weakest: float = 1.0  # peaks are this high to 1
    missed: float = 0.0
    doubled: float = 0.0  # instances of a slice with a second, weak peak anywhere inside
    grain: float = 0.0  # standard deviation of the noise of the density


FAULTS = {
    "perfect": Faults(),
    "noisy": Faults(blur=1.0, bumps=0.1, off=0.3, weakest=0.6, missed=0.1, doubled=0.1, grain=0.03),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", nargs=3, type=int, default=[24, 192, 192], help="slices, height, width")
    parser.add_argument("--widen", nargs="+", type=float, default=[0, 6, 10], help="pixels that instances grow by")
    parser.add_argument("--sigma", type=float, default=4.0, help="of the density, in pixels (default: %(default)s)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    _, truth = make_synthetic_volume(tuple(args.shape), seed=args.seed)
    results = []
    for widen in args.widen:
        true = widen_instances(truth, widen)
        for name, faults in FAULTS.items():
            probability, density = render_maps(true, args.sigma, faults, np.random.default_rng(args.seed))
            for instances_from in ("components", "centers"):
                start = time.perf_counter()
                found = label(probability, density, instances_from)
                seconds = time.perf_counter() - start
                results.append(
                    {"widen": widen, "maps": name, "instances": instances_from, "seconds": seconds}
                    | compare(true, found)
                )
    return results


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [f"{r['widen']:g}", r["maps"], r["instances"], r["true"], r["found"], f"{100 * r['PQ']:.1f}", r["merges"],
         r["splits"], f"{r['seconds']:.1f}"]
        for r in results
    ]  # fmt: skip
    header = ["widened, px", "maps", "instances from", "true", "found", "PQ, %", "merges", "splits", "s"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def widen_instances(labels: np.ndarray, pixels: float) -> np.ndarray:
    """Let all instances of (Z, H, W) grow by so many pixels of a slice, until they meet."""
    if not pixels:
        return labels
    distance, nearest = scipy.ndimage.distance_transform_edt(
        labels == 0, sampling=(SLICE_DISTANCE, 1, 1), return_indices=True
    )
    return np.where(distance <= pixels, labels[tuple(nearest)], 0)


def render_maps(
    labels: np.ndarray, sigma: float, faults: Faults, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What a network with these faults predicts of (Z, H, W) labels: probability and density, uint8, 255 is 1."""
    probability = np.where(labels > 0, 0.95, 0.05)
    if faults.blur:
        probability = scipy.ndimage.gaussian_filter(probability, (0, faults.blur, faults.blur))
    probability += _smooth_noise(rng, labels.shape, 2.0, faults.bumps)
    density = np.stack([_render_slice(one, sigma, faults, rng) for one in labels])
    density += _smooth_noise(rng, labels.shape, sigma / 2, faults.grain)
    stored = [(255 * values.clip(0, 1)).round().astype(np.uint8) for values in (probability, density)]
    return stored[0], stored[1]


def _render_slice(labels: np.ndarray, sigma: float, faults: Faults, rng: np.random.Generator) -> np.ndarray:
    ids, points = instance_centers(labels)
    points = points + faults.off * sigma * rng.standard_normal(points.shape)
    heights = rng.uniform(faults.weakest, 1, len(ids)) * (rng.random(len(ids)) >= faults.missed)
    doubled = ids[rng.random(len(ids)) < faults.doubled]
    for one in doubled:
        rows, columns = np.nonzero(labels == one)
        pixel = rng.integers(len(rows))
        points = np.concatenate([points, [[columns[pixel] + 0.5, rows[pixel] + 0.5]]])
        heights = np.append(heights, rng.uniform(0.4, faults.weakest))
    density = np.zeros(labels.shape, np.float32)
    for point, height in zip(points, heights, strict=True):
        place = torch.tensor(point, dtype=torch.float32)[None, None]
        peak = render_density(place, torch.ones(1, 1, dtype=torch.bool), labels.shape, sigma)[0]
        density = np.maximum(density, height * peak.numpy())
    return density


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], size: float, spread: float) -> np.ndarray:
    """Noise of each slice for itself, with blobs of about ``size`` pixels and this standard deviation."""
    if not spread:
        return np.zeros(shape)
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), (0, size, size))
    return noise * (spread / noise.std())


def label(probability: np.ndarray, density: np.ndarray, instances_from: str) -> np.ndarray:
    """Instances of stored maps (Z, H, W), as `prompt-das predict` makes them."""
    centers = CenterRule(FOREGROUND_THRESHOLD, PEAK_THRESHOLD, KERNEL, {}) if instances_from == "centers" else None
    rule = InstanceRule(FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE, True, centers)
    layout = StoreLayout(probability.shape, ("probability", "density"), None, {})
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder) / "volume.zarr", {}) as work:
        group = prepare_store(work, layout)
        finest(group, "probability")[:], finest(group, "density")[:] = probability, density
        label_instances(work, layout, rule, progress=False)
        return np.asarray(zarr.open_group(str(work.folder / STORE), mode="r")[INSTANCES])


def compare(true: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """PQ in 3-D, and how often instances are joined and cut: each counts for the one that it overlaps most.

    Merges: true instances beyond the first that lie in one found instance. Splits: found ones beyond the first that lie
    in one true instance.
    """
    table = contingency_table(true, found)
    scores = panoptic_quality(table)
    return {
        "true": len(table.true_ids),
        "found": len(table.pred_ids),
        "PQ": scores.pq,
        "merges": _shared(table.true_index, table.pred_index, table.intersections),
        "splits": _shared(table.pred_index, table.true_index, table.intersections),
    }


def _shared(one: np.ndarray, other: np.ndarray, overlap: np.ndarray) -> int:
    """How many of the ``one`` share the ``other`` that they overlap most with a previous one."""
    order = np.lexsort((-overlap, one))
    _, first = np.unique(one[order], return_index=True)
    return len(first) - len(np.unique(other[order][first]))
