"""Whole volumes out of core: memory that does not grow with the number of slices, here and on two Dask workers.

The way of `prompt-das predict` from a Zarr volume of synthetic slices to an OME-Zarr of probability, density and 3-D
instances, with an untrained network. Each run is a fresh process. "flushing" is the time within ``os.fsync``, which a
result that outlasts a loss of power costs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.inference.volume.executors import dask_executor
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.modeling import PromptDAS
from prompt_das.volumes.synthetic import make_synthetic_volume

import numpy as np
import torch
import zarr
from tabulate import tabulate

from .measure import in_fresh_process, peak_memory
from .model import CONFIG_OF_SIZE

DASK_WORKERS = 2
TILE = 128  # pixels; a volume is tiled with a smaller one, so that it is made quickly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slices", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--size", type=int, default=1024, help="side of a slice in pixels")
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the config, after --: KEY VALUE ...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "untrained.safetensors"
        write_weights(weights, args.seed, args.opts)
        for slices in args.slices:
            volume = Path(folder) / f"{slices}.zarr"
            write_volume(volume, slices, args.size, args.seed)
            for workers in (0, DASK_WORKERS):
                output = Path(folder) / f"{slices}_{workers}.zarr"
                measured = in_fresh_process(predict, str(weights), str(volume), str(output), workers)
                results.append({"slices": slices, "size": args.size, "workers": workers, **measured})
    return results


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{r['slices']} × {r['size']}²",
            f"{r['workers']} Dask workers" if r["workers"] else "one process",
            f"{r['bytes'] / 1e6:.0f}" if not r["workers"] else "",
            f"{r['seconds']:.1f}",
            f"{r['slices'] / r['seconds']:.2f}",
            f"{r['flushing']:.2f} ({r['flushes']})" if not r["workers"] else "",
            r["instances"],
        ]
        for r in results
    ]
    header = ["volume", "where", "peak memory, MB", "seconds", "slices / s", "flushing, s (times)", "instances"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def write_weights(path: Path, seed: int, opts: list[str]) -> None:
    cfg = get_prompt_das_cfg(str(CONFIG_OF_SIZE["quick"]), ["MODEL.VIT.WEIGHTS", "", *opts])
    torch.manual_seed(seed)
    export_weights(path, PromptDAS(cfg).state_dict(), cfg.dump())


def write_volume(path: Path, slices: int, size: int, seed: int) -> None:
    tile, _ = make_synthetic_volume((8, TILE, TILE), "target", seed)
    whole = np.tile(tile, (1, -(-size // TILE), -(-size // TILE)))[:, :size, :size]
    array = zarr.open_array(str(path), mode="w", shape=(slices, size, size), chunks=(1, size, size), dtype=np.uint8)
    for z in range(slices):
        array[z] = whole[z % len(whole)]


def predict(weights: str, volume: str, output: str, workers: int) -> dict[str, float]:
    """Peak memory of this process beyond the network, seconds, how many of them in how many flushes, and instances."""
    counts = []

    def once(name: str, **options: Any) -> None:
        result = predict_volume(weights, volume, name, progress=False, **options)
        counts.append(result.count if result else 0)

    if workers:
        with dask_executor(workers=workers) as executor:
            start = time.perf_counter()
            once(output, executor=executor)
            return {"bytes": 0, "seconds": time.perf_counter() - start, "instances": counts[-1]}
    with timed_flushes() as flushes:
        start = time.perf_counter()
        memory = peak_memory(lambda: once(output))
        seconds = time.perf_counter() - start
    return {
        "bytes": memory,
        "seconds": seconds,
        "flushing": sum(flushes),
        "flushes": len(flushes),
        "instances": counts[-1],
    }


@contextmanager
def timed_flushes() -> Iterator[list[float]]:
    """Collect the seconds of each ``os.fsync`` of this process."""
    fsync, taken = os.fsync, []

    def timed(descriptor: int) -> None:
        start = time.perf_counter()
        fsync(descriptor)
        taken.append(time.perf_counter() - start)

    with mock.patch.object(os, "fsync", timed):
        yield taken
