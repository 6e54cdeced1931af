"""Sliding window over a slice: prompt_das.ops.sliding_window against monai.inferers.sliding_window_inference.

Both get the same network, image, windows and batches. "copy" has no network: what is left is the cost of cutting the
slice up and stitching it together.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling.load import build_model, resolve_device
from prompt_das.ops.sliding_window import sliding_window

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import Tensor, nn

from .measure import in_fresh_process, interleaved, peak_memory, ratio, show, spread
from .model import CONFIG_OF_SIZE

Network = Callable[[Tensor], Tensor]  # windows (B, 1, w, w) -> (B, 1, w, w)
PEERS = OURS, PEER = "prompt_das", "MONAI"
CONFIG_OF_NETWORK = {"copy": "paper", "convolutions": "paper", "quick": "quick", "paper": "paper"}
BLENDS = {"uniform": "constant", "gaussian": "gaussian"}  # ours: MONAI's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        nargs="+",
        choices=list(CONFIG_OF_NETWORK),
        default=["copy", "convolutions", "quick"],
        help="quick and paper are PromptDAS; each has the windows of its config, copy and convolutions the paper's",
    )
    parser.add_argument("--size", type=int, default=4096, help="side of the slice, before INPUT.SCALE")
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the configs, after --: KEY VALUE ...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    monai_sliding_window()
    return [
        result
        for name in args.network
        for result in benchmark_window(name, args.size, args.repeats, args.seed, args.opts)
    ]


def report(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            r["network"],
            f"{r['side']}², {r['windows']} of {r['window']}²",
            r["blend"],
            show(r["seconds"][OURS], 2),
            show(r["seconds"][PEER], 2),
            f"{r['ratio']:.2f}",
            " / ".join(f"{r['peak memory, MB'][name]:.0f}" for name in PEERS),
            f"{r['largest difference']:.0e}",
        ]
        for r in results
    ]
    header = ["network", "slice, windows", "blending", f"{OURS}, s", f"{PEER}, s", f"{PEER} / {OURS}"]
    header += [f"peak memory {OURS} / {PEER}, MB", "largest difference"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def monai_sliding_window() -> Callable[..., Any]:
    try:
        from monai.inferers import sliding_window_inference
    except ImportError as error:
        raise SystemExit(
            "the command `window` compares with MONAI, which is not installed: pip install -e '.[benchmark]'"
        ) from error
    return sliding_window_inference


def benchmark_window(name: str, size: int, repeats: int, seed: int, opts: list[str]) -> list[dict[str, Any]]:
    """Seconds of both for each way to blend, and peak memory. Raises RuntimeError if their windows differ."""
    cfg = config(name, opts)
    network, image = build_network(name, cfg, seed), build_image(cfg, size, seed)
    case = {
        "network": name,
        "side": image.shape[-1],
        "window": cfg.INPUT.CROP_SIZE,
        "stride": cfg.TEST.WINDOW.STRIDE,
        "windows": number_of_windows(cfg, image),
        "batch": cfg.TEST.WINDOW.BATCH_SIZE,
        "peak memory, MB": {
            peer: in_fresh_process(memory_of, peer, name, size, seed, opts, exact_memory=True) / 1e6 for peer in PEERS
        },
    }
    results = []
    for blend in BLENDS:
        runs = {peer: partial(stitch, peer, cfg, image, network, blend) for peer in PEERS}
        times = interleaved(runs, repeats, image.device)
        results.append(
            {
                **case,
                "blend": blend,
                "seconds": {peer: spread(taken) for peer, taken in times.items()},
                "ratio": ratio(times[PEER], times[OURS]),
                "largest difference": float((runs[OURS]() - runs[PEER]()).abs().max()),
            }
        )
    return results


@torch.no_grad()
def stitch(peer: str, cfg: CfgNode, image: Tensor, network: Network, blend: str) -> Tensor:
    """The whole slice (1, H, W) through the network, by one of the two."""
    window, stride, batch = cfg.INPUT.CROP_SIZE, cfg.TEST.WINDOW.STRIDE, cfg.TEST.WINDOW.BATCH_SIZE
    if peer == OURS:
        return sliding_window(
            image,
            lambda windows, points, valid: network(windows),
            window=window,
            stride=stride,
            blend=blend,
            batch_size=batch,
        )
    # MONAI rounds the stride down from the overlap: half a pixel more keeps it clear of rounding errors.
    overlap = max(0.0, 1 - (stride + 0.5) / window)
    return monai_sliding_window()(image[None], (window, window), batch, network, overlap=overlap, mode=BLENDS[blend])[0]


def number_of_windows(cfg: CfgNode, image: Tensor) -> int:
    """How many windows both of them cut, which must be the same ones in the same order."""
    numbered = torch.arange(1, image.numel() + 1, dtype=torch.float64, device=image.device).view(image.shape)
    corners: dict[str, list[float]] = {OURS: [], PEER: []}
    for peer, seen in corners.items():

        def note(windows: Tensor, seen: list[float] = seen) -> Tensor:
            seen.extend(windows[:, 0, 0, 0].tolist())
            return windows.clone()

        stitch(peer, cfg, numbered, note, "uniform")
    if corners[OURS] != corners[PEER]:
        raise RuntimeError(
            f"the windows differ ({len(corners[OURS])} of {OURS}, {len(corners[PEER])} of {PEER}): nothing to compare"
        )
    return len(corners[OURS])


def memory_of(peer: str, name: str, size: int, seed: int, opts: list[str]) -> int:
    """Bytes at the peak of one run, blending "uniform"; "gaussian" takes one window more."""
    cfg = config(name, opts)
    network, image = build_network(name, cfg, seed), build_image(cfg, size, seed)
    side = cfg.INPUT.CROP_SIZE
    stitch(peer, cfg, image[:, :side, :side], network, "uniform")  # one window: what is allocated once for all slices
    return peak_memory(lambda: stitch(peer, cfg, image, network, "uniform"), image.device)


def config(name: str, opts: list[str]) -> CfgNode:
    return get_prompt_das_cfg(str(CONFIG_OF_SIZE[CONFIG_OF_NETWORK[name]]), ["MODEL.VIT.WEIGHTS", "", *opts])


def build_image(cfg: CfgNode, size: int, seed: int) -> Tensor:
    side = math.ceil(size * cfg.INPUT.SCALE)
    return 255 * torch.rand(1, side, side, generator=torch.Generator().manual_seed(seed)).to(resolve_device(cfg))


def build_network(name: str, cfg: CfgNode, seed: int) -> Network:
    torch.manual_seed(seed)
    if name == "copy":
        return Tensor.clone
    if name == "convolutions":
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid()]
        return nn.Sequential(*layers).to(resolve_device(cfg))
    model = build_model(cfg).eval()

    def without_prompts(windows: Tensor) -> Tensor:
        points = windows.new_zeros(len(windows), 1, 0, 2)
        return model.predict_windows(windows, points, points[..., 0].bool())

    return without_prompts
