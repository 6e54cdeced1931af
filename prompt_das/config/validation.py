"""Can a network be built from a config, and a run be made with it? Its types, its ranges, its contradictions."""

from __future__ import annotations

import math
from typing import Any

from prompt_das.config.defaults import defaults

from detectron2.config import CfgNode

# Smallest and largest sensible value. The largest are far above any real network, and keep a damaged digit or a file of
# a stranger from filling the memory.
RANGES: dict[str, tuple[float, float]] = {
    "MODEL.VIT.PATCH_SIZE": (1, 128),
    "MODEL.VIT.EMBED_DIM": (1, 8192),
    "MODEL.VIT.DEPTH": (1, 256),
    "MODEL.VIT.NUM_HEADS": (1, 256),
    "MODEL.VIT.MLP_RATIO": (0.01, 64),
    "MODEL.DECODER.DEPTH": (1, 64),
    "MODEL.DECODER.NUM_HEADS": (1, 256),
    "MODEL.DECODER.MLP_DIM": (1, 65536),
    "MODEL.DECODER.ATTENTION_DOWNSAMPLE_RATE": (1, 64),
    "MODEL.CENTER_HEAD.CHANNELS": (1, 65536),
    "MODEL.CENTER_HEAD.SIGMA": (0.01, 1000),
    "INPUT.CROP_SIZE": (1, 16384),
    "INPUT.SCALE": (0.001, 1000),
    "DATALOADER.MAX_CORRUPT_SLICES": (0, 10**9),
    "TEST.WINDOW.STRIDE": (1, 16384),
    "TEST.WINDOW.BATCH_SIZE": (1, 65536),
}


def check(cfg: CfgNode) -> None:
    """Raise ValueError for values of no use, and for settings that contradict each other."""
    check_values(cfg, defaults())
    for key, (low, high) in RANGES.items():
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        if not low <= value <= high:
            raise ValueError(f"{key} is {value}; use {low} to {high}")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != 3 or not all(type(v) in (int, float) and math.isfinite(v) for v in cfg.MODEL[key]):
            raise ValueError(f"MODEL.{key} is {cfg.MODEL[key]}; use three numbers")
    if min(cfg.MODEL.PIXEL_STD) <= 0:
        raise ValueError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}; use three positive numbers")
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("SOLVER.AMP is Detectron2's float16 training; use MODEL.PRECISION bfloat16 instead")
    if cfg.MODEL.PRECISION not in ("float32", "bfloat16"):
        raise ValueError(f"MODEL.PRECISION is {cfg.MODEL.PRECISION!r}; use float32 or bfloat16")
    if cfg.INPUT.CROP_SIZE % cfg.MODEL.VIT.PATCH_SIZE:
        raise ValueError(
            f"INPUT.CROP_SIZE is {cfg.INPUT.CROP_SIZE}; make it a multiple of "
            f"MODEL.VIT.PATCH_SIZE {cfg.MODEL.VIT.PATCH_SIZE}"
        )
    for node in ("VIT", "DECODER"):
        if cfg.MODEL.VIT.EMBED_DIM % cfg.MODEL[node].NUM_HEADS:
            raise ValueError(
                f"MODEL.VIT.EMBED_DIM is {cfg.MODEL.VIT.EMBED_DIM}; make it a multiple of "
                f"MODEL.{node}.NUM_HEADS {cfg.MODEL[node].NUM_HEADS}"
            )
    for key in ("TRAIN", "TARGET", "VAL", "TEST", "VOLUMES"):
        if not all(isinstance(name, str) for name in cfg.DATASETS[key]):
            raise ValueError(f"DATASETS.{key} is {cfg.DATASETS[key]}; use a list of names")
    burn_in = cfg.DOMAIN_ADAPT.BURN_IN_ITERS
    if cfg.DOMAIN_ADAPT.ENABLED and not 0 <= burn_in <= cfg.SOLVER.MAX_ITER:
        raise ValueError(
            f"DOMAIN_ADAPT.BURN_IN_ITERS is {burn_in}; it is part of SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}"
        )
    if cfg.DOMAIN_ADAPT.ENABLED and not cfg.DATASETS.TARGET:
        raise ValueError("DOMAIN_ADAPT.ENABLED needs DATASETS.TARGET, the unlabelled volumes to adapt to")


def check_values(cfg: CfgNode, default: CfgNode, prefix: str = "") -> None:
    """Raise ValueError for a value that is missing (``KEY:`` and nothing behind it), NaN or infinite."""
    for key, value in cfg.items():
        if key not in default:
            continue  # new keys are allowed in some sections of Detectron2's own
        if isinstance(value, CfgNode):
            check_values(value, default[key], f"{prefix}{key}.")
        elif value is None and default[key] is not None:
            raise ValueError(f"{prefix}{key} has no value; was the config cut off? Its default is {default[key]!r}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{prefix}{key} is {value}; use a finite number")
