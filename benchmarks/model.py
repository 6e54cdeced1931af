"""Forward and training-step time of each part of the network."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_das.adaptation.mean_teacher import MovingAverage, make_teacher
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.solver import build_optimizer
from prompt_das.modeling.load import build_model
from prompt_das.modeling.precision import computed_precision

import torch
from tabulate import tabulate
from torch import nn

from .measure import Laps, seconds

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CONFIG_OF_SIZE = {
    "paper": CONFIGS / "rat2human_wda.yaml",
    "quick": CONFIGS / "quick" / "vnc2lucchi_wda.yaml",
}
EMA_DECAY = 0.99  # its cost does not depend on it
POINTS_PER_IMAGE = 5  # about what a crop of MitoEM holds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", choices=list(CONFIG_OF_SIZE), default=list(CONFIG_OF_SIZE))
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the config, after --: KEY VALUE ...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [benchmark_model(size, args.repeats, args.seed, args.opts) for size in args.size]


def report(results: list[dict[str, Any]]) -> str:
    blocks = []
    for result in results:
        blocks.append(
            f"{result['size']}: {result['million parameters']} M parameters, {result['crop']} px, {result['precision']}"
        )
        for key in ("forward of one image, ms", "training iteration, ms"):
            blocks.append(tabulate(list(result[key].items()), ["", key], tablefmt="github", floatfmt=".1f"))
    return "\n\n".join(blocks)


def median_time(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median seconds of ``run()``, after one call that does not count."""
    return statistics.median([seconds(run, device) for _ in range(repeats + 1)][1:])


def training_step(
    model: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Mapping[str, Any]],
    laps: Laps,
) -> None:
    """What an iteration does with a labeled batch."""
    optimizer.zero_grad()
    loss = sum(laps("forward", lambda: model(batch)).values())
    laps("backward", loss.backward)
    laps("optimizer", optimizer.step)
    laps("EMA", lambda: average.update(EMA_DECAY))


def training_batch(cfg: Any) -> list[dict[str, Any]]:
    """Random crops of the sizes and numbers that one iteration of the config has."""
    side = cfg.INPUT.CROP_SIZE

    def points(n: int) -> torch.Tensor:
        return torch.rand(n, 2) * side

    def crop(domain: str) -> dict[str, Any]:
        return {
            "domain": domain,
            "image": torch.rand(1, side, side) * 255,
            "mask": (torch.rand(side, side) > 0.94).to(torch.uint8),
            "points": points(POINTS_PER_IMAGE),
            "prompts": points(POINTS_PER_IMAGE // 2),
        }

    source = [crop("source") for _ in range(cfg.SOLVER.IMS_PER_BATCH)]
    target = [
        {
            **crop("target"),
            "pixel_valid": torch.ones(side, side, dtype=torch.bool),
            "density_ignore": torch.zeros(side, side, dtype=torch.bool),
            "image_weight": 0.9,
            "contrastive": {
                "positives": points(1),
                "queries": points(cfg.DOMAIN_ADAPT.CONTRASTIVE.QUERIES_PER_INSTANCE * POINTS_PER_IMAGE),
                "negatives": points(cfg.DOMAIN_ADAPT.CONTRASTIVE.NUM_NEGATIVES),
            },
        }
        for _ in range(cfg.DATALOADER.TARGET_IMS_PER_BATCH)
    ]
    return source + target


def benchmark_model(size: str, repeats: int, seed: int, opts: list[str]) -> dict[str, Any]:
    """Milliseconds of each part for one image, and of one training iteration at the config's batch size."""
    fixed = ["VIS_PERIOD", "0", "MODEL.VIT.WEIGHTS", "", "DOMAIN_ADAPT.USE_CONTRASTIVE", "True"]
    cfg = get_prompt_das_cfg(str(CONFIG_OF_SIZE[size]), [*fixed, *opts])
    torch.manual_seed(seed)
    model: Any = build_model(cfg).eval()
    device, side = model.device, cfg.INPUT.CROP_SIZE
    image = torch.rand(1, 1, side, side, device=device) * 255
    points = torch.rand(1, POINTS_PER_IMAGE, 2, device=device) * side
    valid = torch.ones(1, POINTS_PER_IMAGE, dtype=torch.bool, device=device)

    with torch.no_grad():
        embedding = model.encode(image)

        def decode(**heads: bool) -> Callable[[], Any]:
            return lambda: model.decode(embedding, points, valid, (side, side), **heads)

        forward = {
            "encoder": median_time(lambda: model.encode(image), repeats, device),
            "decoder": median_time(decode(with_mask=False, with_density=False), repeats, device),
            "decoder + segmentation head": median_time(decode(with_density=False), repeats, device),
            "decoder + both heads": median_time(decode(), repeats, device),
        }

    optimizer, batch = build_optimizer(cfg, model), training_batch(cfg)
    average = MovingAverage(make_teacher(model), model)
    model.train()
    laps = Laps(device)
    total = median_time(lambda: training_step(model, average, optimizer, batch, laps), repeats, device)
    training = {name: statistics.median(times[1:]) for name, times in laps.seconds.items()}
    return {
        "size": size,
        "crop": side,
        "precision": computed_precision(cfg.MODEL.PRECISION, device),
        "million parameters": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        "images per iteration": len(batch),
        "forward of one image, ms": {name: 1e3 * t for name, t in forward.items()},
        "training iteration, ms": {**{name: 1e3 * t for name, t in training.items()}, "total": 1e3 * total},
    }
