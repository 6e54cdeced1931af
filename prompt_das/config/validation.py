"""Can a network be built from a config, and a run be made with it? Its types, its ranges, its contradictions."""

from __future__ import annotations

import logging
import math
from typing import Any

from prompt_das.config.defaults import defaults

from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n

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
    "INPUT.PIXEL_SIZE": (0, 10000),
    "INPUT.SYNTHETIC_PIXEL_SIZE": (0, 10000),
    "MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY": (0.01, 0.99),
    "INPUT.SCALE": (0.001, 1000),
    "INPUT.DIAMETER": (1, 4096),
    "INPUT.FOREGROUND_PROBABILITY": (0, 1),
    "DATASETS.SPARSE_POINTS.RATIO": (0, 1),
    "DATALOADER.NUM_WORKERS": (0, 1024),
    "DATALOADER.TARGET_IMS_PER_BATCH": (1, 65536),
    "DATALOADER.MAX_CORRUPT_SLICES": (0, 10**9),
    "DOMAIN_ADAPT.TEACHER.EMA_DECAY": (0, 1),
    "DOMAIN_ADAPT.POINTS.TOP_K": (1, 10**6),
    "DOMAIN_ADAPT.POINTS.SUPERVISION_RADIUS": (0, 1000),
    "DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE": (0, 1),
    "SOLVER.IMS_PER_BATCH": (1, 65536),
    "SOLVER.MAX_ITER": (1, 10**9),
    "SOLVER.MAX_NONFINITE_STEPS": (1, 10**9),
    "SOLVER.CHECKPOINT_PERIOD": (1, 10**9),
    "TEST.EVAL_PERIOD": (0, 10**9),  # 0, as in Detectron2: only after the last iteration
    "TEST.MIN_INSTANCE_SIZE": (0, 10**9),
    "TEST.MIN_CONFIDENCE": (0, 1),
    "TEST.DEPTH_SIGMA": (0, 1000),
    "TEST.NUM_PICTURES": (0, 10**6),
    "TEST.WINDOW.STRIDE": (1, 16384),
    "TEST.WINDOW.BATCH_SIZE": (1, 65536),
    "VIS_PERIOD": (0, 10**9),  # 0: never
}

CHOICES: dict[str, tuple[str | int, ...]] = {
    "MODEL.PRECISION": ("float32", "bfloat16"),
    "MODEL.VIT.STEM": ("linear", "conv"),
    "TEST.WINDOW.ROTATIONS": (1, 4),
    "TEST.WINDOW.BLEND": ("uniform", "gaussian"),
    "MODEL.DECODER.CONTRASTIVE_FROM": ("tokens", "features"),
    "TEST.CLICK_REACH": ("image", "object"),
    "TEST.INSTANCES": ("components", "centers"),
}


def check(cfg: CfgNode) -> None:
    """Raise ValueError for values of no use, and for settings that contradict each other."""
    check_values(cfg, defaults())
    for key, (low, high) in RANGES.items():
        if not low <= value_of(cfg, key) <= high:
            raise ValueError(f"{key} is {value_of(cfg, key)}; use {low} to {high}")
    for key, choices in CHOICES.items():
        if value_of(cfg, key) not in choices:
            raise ValueError(f"{key} is {value_of(cfg, key)!r}; use {' or '.join(map(str, choices))}")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != 3 or not all(type(v) in (int, float) and math.isfinite(v) for v in cfg.MODEL[key]):
            raise ValueError(f"MODEL.{key} is {cfg.MODEL[key]}; use three numbers")
    if min(cfg.MODEL.PIXEL_STD) <= 0:
        raise ValueError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}; use three positive numbers")
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("SOLVER.AMP is Detectron2's float16 training; use MODEL.PRECISION bfloat16 instead")
    if cfg.INPUT.CROP_SIZE % cfg.MODEL.VIT.PATCH_SIZE:
        raise ValueError(
            f"INPUT.CROP_SIZE is {cfg.INPUT.CROP_SIZE}; make it a multiple of "
            f"MODEL.VIT.PATCH_SIZE {cfg.MODEL.VIT.PATCH_SIZE}"
        )
    if 0 < cfg.INPUT.PIXEL_SIZE < 0.5:
        raise ValueError(
            f"INPUT.PIXEL_SIZE is {cfg.INPUT.PIXEL_SIZE}; it is in nanometers, and this looks like µm: that is "
            f"{1000 * cfg.INPUT.PIXEL_SIZE:g} nm"
        )
    if cfg.INPUT.PIXEL_SIZE and cfg.INPUT.SCALE != 1:
        log_first_n(
            logging.WARNING,
            f"INPUT.SCALE {cfg.INPUT.SCALE:g} holds for every volume, and INPUT.PIXEL_SIZE {cfg.INPUT.PIXEL_SIZE:g} is "
            "ignored; set INPUT.SCALE 1.0 to use it",
            name=__name__,
            key="message",
        )
    if cfg.DOMAIN_ADAPT.POINTS.KERNEL < 1 or cfg.DOMAIN_ADAPT.POINTS.KERNEL % 2 == 0:
        raise ValueError(
            f"DOMAIN_ADAPT.POINTS.KERNEL is {cfg.DOMAIN_ADAPT.POINTS.KERNEL}; use an odd number, 1 or more"
        )
    if not all(type(ratio) in (int, float) and 0 <= ratio <= 1 for ratio in cfg.TEST.PROMPT_RATIOS):
        raise ValueError(f"TEST.PROMPT_RATIOS is {cfg.TEST.PROMPT_RATIOS}; use numbers from 0 to 1 (15 % is 0.15)")
    for node in ("VIT", "DECODER"):
        if cfg.MODEL.VIT.EMBED_DIM % cfg.MODEL[node].NUM_HEADS:
            raise ValueError(
                f"MODEL.VIT.EMBED_DIM is {cfg.MODEL.VIT.EMBED_DIM}; make it a multiple of "
                f"MODEL.{node}.NUM_HEADS {cfg.MODEL[node].NUM_HEADS}"
            )
    for key in ("TRAIN", "TARGET", "VAL", "TEST", "VOLUMES"):
        if not all(isinstance(name, str) for name in cfg.DATASETS[key]):
            raise ValueError(f"DATASETS.{key} is {cfg.DATASETS[key]}; use a list of names")
    points = cfg.DATASETS.SPARSE_POINTS
    if points.FILE and points.RATIO == 0:
        raise ValueError(
            f"DATASETS.SPARSE_POINTS.FILE is {points.FILE!r}, but DATASETS.SPARSE_POINTS.RATIO is 0.0, the "
            'unsupervised mode, which uses no points; remove RATIO, or set FILE ""'
        )
    burn_in = cfg.DOMAIN_ADAPT.BURN_IN_ITERS
    if cfg.DOMAIN_ADAPT.ENABLED and not 0 <= burn_in <= cfg.SOLVER.MAX_ITER:
        raise ValueError(
            f"DOMAIN_ADAPT.BURN_IN_ITERS is {burn_in}; it is part of SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}"
        )
    if cfg.DOMAIN_ADAPT.ENABLED and not cfg.DATASETS.TARGET:
        raise ValueError("DOMAIN_ADAPT.ENABLED needs DATASETS.TARGET, the unlabeled volumes to adapt to")


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key such as "SOLVER.MAX_ITER"."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def fit_type(value: Any, default: Any, key: str) -> Any:
    """A value from a file or a command line in the type of its default, where it can only mean one thing.

    A whole number becomes a float where the default is one; what is text is evaluated as yacs does it.

    Raises:
        ValueError: a single name where several are expected; shows how it is written.
    """
    meaning = CfgNode._decode_cfg_value(value) if isinstance(value, str) else value
    if isinstance(default, float) and type(meaning) is int:
        return float(meaning)
    if isinstance(default, tuple | list) and isinstance(meaning, str):
        raise ValueError(
            f"{key} is {meaning!r}; it is a list, so write ({meaning!r},) in a file, and on a command line "
            f'{key} "({meaning!r},)"'
        )
    return value


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
