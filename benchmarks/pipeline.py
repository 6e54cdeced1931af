"""From a volume on disk to 3-D instances on disk: `prompt-das predict` against MONAI's inferer, cc3d and zarr.

Both have the same network, `em-small` without its rule for weak components, the same windows and batches, one process,
and write probability and instances as Zarr. What the peer is: the script that one would write, with the volume in
memory; it has no pyramids, no table, and does not go on where it was stopped. "Network" is the time within it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import load_model
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE
from prompt_das.volumes.ome_zarr import LABELS, finest
from prompt_das.volumes.synthetic_tissue.micrograph import make_micrograph

import cc3d
import cv2
import numpy as np
import torch
import zarr
from tabulate import tabulate

from .measure import in_fresh_process, in_turn, peak_memory, ratio, show, spread
from .window import OURS, monai_sliding_window

PEER = "MONAI + cc3d"
WEIGHTS = "em-small"
WITHOUT_RULES = ["TEST.MIN_CONFIDENCE", "0.0"]
PIXEL_SIZE = 8.0  # nm
TILE = 512  # pixels; a slice is tiled with a smaller one, so that it is made quickly
DRIFT = 3  # pixels from slice to slice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=2048, help="side of a slice in pixels (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=20, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    monai_sliding_window()
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    pipelines = {OURS: run_ours, PEER: run_peer}
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume.zarr"
        write_volume(volume, args.slices, args.size, args.seed)
        for turn in range(args.repeats):
            for name in in_turn(pipelines, turn):
                output = Path(folder) / f"{turn}_{len(name)}.zarr"
                taken[name].append(in_fresh_process(pipelines[name], str(volume), str(output)))
    case = {"slices": args.slices, "size": args.size}
    results = [case | {"pipeline": name, "runs": runs} for name, runs in taken.items()]
    for result in results:
        for what in ("seconds", "network", "bytes"):
            result[what] = spread([one[what] for one in taken[result["pipeline"]]])
    seconds = {name: [one["seconds"] for one in runs] for name, runs in taken.items()}
    results[0]["ratio"] = ratio(seconds[PEER], seconds[OURS])
    return results


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            r["pipeline"],
            show(r["seconds"], 1),
            show(r["network"], 1),
            f"{100 * (1 - r['network']['median'] / r['seconds']['median']):.0f} %",
            f"{r['bytes']['median'] / 1e6:.0f}",
            f"{r['runs'][0]['instances']:.0f}",
            f"{100 * r['runs'][0]['foreground']:.2f} %",
        ]
        for r in results
    ]
    header = [f"{results[0]['slices']} × {results[0]['size']}²", "seconds", "in the network", "outside"]
    header += ["peak memory, MB", "instances", "foreground"]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return f"{table}\n\n{PEER} / {OURS}: {results[0]['ratio']:.2f}"


def write_volume(path: Path, slices: int, size: int, seed: int) -> None:
    """Tissue that moves a little from slice to slice."""
    tile = make_micrograph(np.random.default_rng(seed), TILE, PIXEL_SIZE).image
    whole = np.tile(tile, (-(-size // TILE),) * 2)[:size, :size]
    array = zarr.open_array(str(path), mode="w", shape=(slices, size, size), chunks=(1, size, size), dtype=np.uint8)
    for z in range(slices):
        array[z] = np.roll(whole, DRIFT * z, axis=1)


def run_ours(volume: str, output: str) -> dict[str, float]:
    source = VolumeSource(volume, voxel_size=(PIXEL_SIZE,) * 3)
    settings = VolumeSettings(density=False)
    measured = measure(lambda: predict_volume(WEIGHTS, source, output, settings, opts=WITHOUT_RULES, progress=False))
    return measured | about(finest(zarr.open_group(output, mode="r"), LABELS))


def run_peer(volume: str, output: str) -> dict[str, float]:
    monai_sliding_window()  # its import takes seconds, and does not count

    def pipeline() -> None:
        cfg, model = load_model(WEIGHTS, opts=WITHOUT_RULES)
        images: Any = zarr.open_array(volume, mode="r")
        out: Any = zarr.open_group(output, mode="w")
        options: dict[str, Any] = {"shape": images.shape, "chunks": images.chunks}
        maps, labels = (out.create_array(n, dtype=t, **options) for n, t in ((MAP, np.uint8), (LABELS, np.uint32)))
        for z in range(images.shape[0]):
            maps[z] = np.rint(255 * predict_slice(cfg, model, images[z]))
        instances = cc3d.connected_components(maps[:] > 255 * FOREGROUND_THRESHOLD, connectivity=26)
        instances = cc3d.dust(instances, threshold=MIN_INSTANCE_SIZE + 1, connectivity=26)
        for z, one in enumerate(instances):
            labels[z] = one

    return measure(pipeline) | about(zarr.open_group(output, mode="r")[LABELS])


MAP = "probability"


@torch.no_grad()
def predict_slice(cfg: Any, model: PromptDAS, image: np.ndarray) -> np.ndarray:
    """Probability (H, W) of a slice by MONAI's sliding window."""
    scale, (height, width) = PIXEL_SIZE / cfg.INPUT.PIXEL_SIZE, image.shape
    resized = cv2.resize(image.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def network(windows: torch.Tensor) -> torch.Tensor:
        points = windows.new_zeros(len(windows), 1, 0, 2)
        return model.predict_windows(windows, points, points[..., 0].bool())

    window, stride, batch = cfg.INPUT.CROP_SIZE, cfg.TEST.WINDOW.STRIDE, cfg.TEST.WINDOW.BATCH_SIZE
    overlap = 1 - (stride + 0.5) / window  # MONAI rounds the stride down
    found = monai_sliding_window()(torch.from_numpy(resized)[None, None], (window, window), batch, network, overlap)
    return cv2.resize(found[0, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR)


def measure(pipeline: Any) -> dict[str, float]:
    """Seconds, those within the network, and bytes at the peak."""
    with timed_network() as network:
        begun = time.perf_counter()
        memory = peak_memory(pipeline)
        return {"seconds": time.perf_counter() - begun, "network": sum(network), "bytes": float(memory)}


def about(labels: Any) -> dict[str, float]:
    whole = labels[:]
    return {"instances": float(len(np.unique(whole)) - 1), "foreground": float((whole > 0).mean())}


@contextmanager
def timed_network() -> Iterator[list[float]]:
    """Collect the seconds of each batch of windows in the network."""
    decode, taken = PromptDAS.decode_windows, []

    def timed(self: PromptDAS, *args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = decode(self, *args, **options)
        taken.append(time.perf_counter() - begun)
        return result

    with mock.patch.object(PromptDAS, "decode_windows", timed):
        yield taken
