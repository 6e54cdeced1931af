"""Training crops: from the Zarr of `prompt-das prepare-mitoem` against the slices as downloaded, PNG and TIFF.

Synthetic slices in MitoEM's layout, read as training reads them: an epoch visits every slice once, in random order, and
takes one crop of it. Volumes are opened anew for every epoch, so that no slice is found decoded; opening is not timed.
The files have just been written: the operating system has them in memory, and no disk is measured.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.cli.prepare_mitoem import prepare
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.build import SampleStream
from prompt_das.data.crop_reader import CropReader
from prompt_das.data.dataset_mapper import SourceMapper
from prompt_das.data.slice_listing import load_slices
from prompt_das.data.slices import close_volumes, read_image, read_labels
from prompt_das.data.volume_spec import VolumeSpec
from prompt_das.volumes.synthetic import make_synthetic_volume

import cv2
import numpy as np
import tifffile
from detectron2.config import CfgNode
from tabulate import tabulate

from .measure import in_turn, ratio, seconds, show, spread

Mapper = Callable[[dict[str, Any], np.random.Generator], np.ndarray]
OURS, PEER = "prepared Zarr", "PNG and TIFF"
TILE = 512  # pixels; what make_synthetic_volume makes in seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=4096, help="side of the slices in pixels")
    parser.add_argument("--slices", type=int, default=12, help="an epoch takes one crop of each")
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the config, after --: KEY VALUE ...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    cfg = get_prompt_das_cfg(None, args.opts)
    with tempfile.TemporaryDirectory() as folder:
        return benchmark_loader(cfg, Path(folder), args.size, args.slices, args.repeats, args.seed)


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            r["what"],
            show(r["crops per second"][OURS], 1),
            show(r["crops per second"][PEER], 1),
            f"{r['ratio']:.1f} ×",
        ]
        for r in results
    ]
    first = results[0]
    header = [f"crops of {first['crop']}² per second", OURS, PEER, "ratio"]
    return (
        tabulate(rows, header, tablefmt="github", disable_numparse=True)
        + f"\n\nSlices of {first['size']}², PNG of {first['bits per pixel']:.1f} bits a pixel; "
        f"{first['preparation, s per slice']:.2f} s to prepare one, once."
    )


def benchmark_loader(
    cfg: CfgNode, folder: Path, size: int, slices: int, repeats: int, seed: int
) -> list[dict[str, Any]]:
    """Crops per second of both formats, in one process, an epoch of each in turn.

    Raises RuntimeError if the two give different pixels.
    """
    bits = write_slices(folder, size, slices + 1, seed)
    spec = VolumeSpec(str(folder), mitoem_split="train")
    downloaded = load_slices("benchmark", spec)
    preparation = seconds(lambda: prepare(folder, allow_partial=True)) / len(downloaded)
    formats = {OURS: load_slices("benchmark", spec), PEER: downloaded}

    crop, source = CropReader.from_config(cfg), SourceMapper(cfg)
    mappers: dict[str, Mapper] = {
        "image alone": lambda d, rng: read_image(d, crop.box(d, rng)),
        "labels alone": lambda d, rng: read_labels(d, crop.box(d, rng)),
        "training sample": lambda d, rng: source(d, rng)["image"].numpy(),
    }
    results = []
    for what, mapper in mappers.items():
        rates: dict[str, list[float]] = {name: [] for name in formats}
        for epoch in range(repeats + 1):
            crops = {}
            for name in in_turn(formats, epoch):
                rate, crops[name] = read_epoch(formats[name], mapper, epoch, seed)
                rates[name].append(rate)
            if not all(map(np.array_equal, *crops.values())):
                raise RuntimeError(f"{what}: {OURS} and {PEER} give different pixels")
        rates = {name: of_epochs[1:] for name, of_epochs in rates.items()}  # the first warms up
        results.append(
            {
                "what": what,
                "size": size,
                "crop": crop.side,
                "slices": slices,
                "crops per second": {name: spread(of_epochs) for name, of_epochs in rates.items()},
                "ratio": ratio(rates[OURS], rates[PEER]),
                "bits per pixel": bits,
                "preparation, s per slice": preparation,
            }
        )
    return results


def read_epoch(slices: list[dict[str, Any]], mapper: Mapper, epoch: int, seed: int) -> tuple[float, list[np.ndarray]]:
    """Crops per second, and the crops, of an epoch over all slices but the first, which is read to open the volume."""
    close_volumes()
    for read in (read_image, read_labels):
        read(slices[0], (0, 0, 1, 1))
    stream = SampleStream(slices[1:], mapper, (seed,))
    numbers = range(epoch * len(stream.slices), (epoch + 1) * len(stream.slices))
    crops: list[Any] = []
    taken = seconds(lambda: crops.extend(stream[n] for n in numbers))
    return len(numbers) / taken, crops


def write_slices(folder: Path, size: int, slices: int, seed: int, style: str = "source") -> float:
    """MitoEM's layout with slices of (size, size) -> bits per pixel of the PNG files (MitoEM's own: 6.4 to 6.7).

    A slice is a mosaic of synthetic tiles, each turned and mirrored. None occurs twice in a slice, where PNG would find
    the repetition.
    """
    side = min(TILE, size)
    columns = math.ceil(size / side)
    images, labels = make_synthetic_volume((math.ceil(columns**2 / 8), side, side), style, seed)
    rng = np.random.default_rng(seed)
    for name in ("im", "mito-train-v2"):
        (folder / name).mkdir(parents=True)
    for z in range(slices):
        chosen = rng.permutation(8 * len(images))[: columns**2]
        image, ids = (mosaic(volume, chosen, columns)[:size, :size] for volume in (images, labels))
        cv2.imwrite(str(folder / "im" / f"im{z:04d}.png"), image)
        tifffile.imwrite(folder / "mito-train-v2" / f"seg{z:04d}.tif", ids, compression="zlib")
    return 8 * sum(file.stat().st_size for file in (folder / "im").iterdir()) / (slices * size**2)


def mosaic(tiles: np.ndarray, chosen: np.ndarray, columns: int) -> np.ndarray:
    """(Z, h, h) tiles, of which each of the numbers 0 ... 8 Z - 1 is one in one of 8 orientations -> (n h, n h)."""
    turned = [np.rot90(tiles[i // 8][:, :: -1 if i % 8 > 3 else 1], i % 4) for i in chosen.tolist()]
    return np.block([turned[row : row + columns] for row in range(0, len(turned), columns)])
