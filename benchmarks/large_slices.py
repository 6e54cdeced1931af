"""What large slices cost after the network: finding and writing instances, and pyramids, on one core.

Synthetic maps as dense as MitoEM's, whose instances move a little from slice to slice, in one block, as a worker has
it. "processor" is the time that the process ran, which other work on the machine changes less than the time on the
clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.block_labels import InstanceRule
from prompt_das.inference.volume.center_instances import CenterRule
from prompt_das.inference.volume.executors import Work
from prompt_das.inference.volume.instances import label_instances
from prompt_das.inference.volume.pyramids import make_pyramids
from prompt_das.inference.volume.store import STORE, StoreLayout, prepare_store
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE
from prompt_das.ops.points import PEAK_THRESHOLD
from prompt_das.volumes.ome_zarr import LABELS, finest

import cv2
import numpy as np
import zarr
from tabulate import tabulate

from .measure import spread
from .metrics import DENSITY, label_maps

MAPS = ("probability", "density")
KERNEL = 5
DRIFT = 3  # pixels from slice to slice
NAMES = {"find_in_blocks": "find", "write_blocks": "write", "fill_parts": "pyramids of three arrays"}


class Stopwatch:
    """An executor in this process that keeps the seconds of each work, on the clock and of the processor."""

    def __init__(self) -> None:
        self.clock: dict[str, float] = defaultdict(float)
        self.processor: dict[str, float] = defaultdict(float)

    def __call__(self, work: Work, items: Sequence[Any], /, *, at_once: int = 1) -> Iterator[Any]:
        function: Any = work
        clock, processor = time.perf_counter(), time.process_time()
        done = list(work(items))
        name = NAMES.get(getattr(getattr(function, "func", None), "__name__", ""), "")  # receipts have none
        self.clock[name] += time.perf_counter() - clock
        self.processor[name] += time.process_time() - processor
        yield from done


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=4096, help="side of a slice in pixels (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=8, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    probability, density = make_maps(args.size, args.seed)
    times: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(args.repeats):
        for instances_from in ("components", "centers"):
            watch = measure(probability, density, args.slices, instances_from)
            for name in NAMES.values():
                seconds = watch.clock[name]
                times[instances_from, name].append((seconds / args.slices, watch.processor[name] / args.slices))
    return [
        {"size": args.size, "slices": args.slices, "instances": instances_from, "what": name}
        | {"clock": spread([one[0] for one in taken]), "processor": spread([one[1] for one in taken])}
        for (instances_from, name), taken in times.items()
    ]


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [r["instances"], r["what"], *(f"{r[k]['median']:.2f} ({r[k]['low']:.2f}–{r[k]['high']:.2f})" for k in KINDS)]
        for r in results
    ]
    header = ["instances from", f"a slice of {results[0]['size']}²", *(f"{kind}, s" for kind in KINDS)]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


KINDS = ("clock", "processor")


def make_maps(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probability and density (size, size), uint8, 255 is 1."""
    labels, _ = label_maps(size, max(1, round(DENSITY * size**2)), np.random.default_rng(seed))
    probability = cv2.GaussianBlur((0.05 + 0.9 * (labels > 0)).astype(np.float32), (0, 0), 1.5)
    distance = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    density = cv2.GaussianBlur((distance / max(distance.max(), 1)).astype(np.float32), (0, 0), 2)
    return tuple(np.uint8((255 * values.clip(0, 1)).round()) for values in (probability, density))  # type: ignore[return-value]


def measure(probability: np.ndarray, density: np.ndarray, slices: int, instances_from: str) -> Stopwatch:
    """Label a volume of so many slices, and make the pyramids."""
    centers = CenterRule(FOREGROUND_THRESHOLD, PEAK_THRESHOLD, KERNEL, {}) if instances_from == "centers" else None
    rule = InstanceRule(FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE, True, centers)
    layout = StoreLayout((slices, *probability.shape), MAPS, (30, 8, 8), {})
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder) / "out.zarr", {}) as work:
        group = prepare_store(work, layout)
        for z in range(slices):
            for name, values in zip(MAPS, (probability, density), strict=True):
                finest(group, name)[z] = np.roll(values, DRIFT * z, axis=1)
        label_instances(work, layout, rule, watch, progress=False)
        group = zarr.open_group(str(work.folder / STORE), mode="r+")
        make_pyramids(work.folder / STORE, group, [*MAPS, LABELS], layout.voxel_size, watch, progress=False)
    return watch
