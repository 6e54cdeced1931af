"""From the command line to a config: the same for every tool."""

from __future__ import annotations

import argparse
import logging

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_prompt_das_config
from ..data.datasets import register_volumes_from_yaml


def get_prompt_das_cfg(config_file: str | None = None, opts: list[str] | None = None) -> CfgNode:
    """The frozen config: defaults, then a YAML file, then overrides ``["KEY", "VALUE", ...]``.

    The volumes of ``DATASETS.VOLUMES`` are registered, and ``MODEL.DEVICE`` becomes "cpu" where there is no GPU.
    """
    cfg = get_cfg()
    add_prompt_das_config(cfg)
    if config_file:
        cfg.merge_from_file(config_file, allow_unsafe=False)
    cfg.merge_from_list(opts or [])
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check(cfg)
    skip_burn_in(cfg)
    for path in cfg.DATASETS.VOLUMES:
        register_volumes_from_yaml(path)
    cfg.freeze()
    return cfg


def skip_burn_in(cfg: CfgNode) -> None:
    """With ``MODEL.WEIGHTS``, a trained model, there is nothing left to pretrain or burn in."""
    if cfg.MODEL.WEIGHTS:
        cfg.MODEL.VIT.WEIGHTS = ""
    if cfg.DOMAIN_ADAPT.ENABLED and cfg.MODEL.WEIGHTS:
        cfg.SOLVER.MAX_ITER -= cfg.DOMAIN_ADAPT.BURN_IN_ITERS
        cfg.DOMAIN_ADAPT.BURN_IN_ITERS = 0


def check(cfg: CfgNode) -> None:
    """Raise ValueError for settings that contradict each other."""
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("SOLVER.AMP is Detectron2's float16 training; use MODEL.PRECISION bfloat16 instead")
    if cfg.MODEL.PRECISION not in ("float32", "bfloat16"):
        raise ValueError(f"MODEL.PRECISION is {cfg.MODEL.PRECISION!r}; use float32 or bfloat16")
    if cfg.INPUT.CROP_SIZE % cfg.MODEL.VIT.PATCH_SIZE:
        raise ValueError(
            f"INPUT.CROP_SIZE is {cfg.INPUT.CROP_SIZE}; make it a multiple of "
            f"MODEL.VIT.PATCH_SIZE {cfg.MODEL.VIT.PATCH_SIZE}"
        )
    burn_in = cfg.DOMAIN_ADAPT.BURN_IN_ITERS
    if cfg.DOMAIN_ADAPT.ENABLED and not 0 <= burn_in <= cfg.SOLVER.MAX_ITER:
        raise ValueError(
            f"DOMAIN_ADAPT.BURN_IN_ITERS is {burn_in}; it is part of SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}"
        )
    if cfg.DOMAIN_ADAPT.ENABLED and not cfg.DATASETS.TARGET:
        raise ValueError("DOMAIN_ADAPT.ENABLED needs DATASETS.TARGET, the unlabelled volumes to adapt to")


def start(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's logging, output folder and seeds, and the same for this package.

    Every rank is seeded alike: the weights must start equal, and the data are seeded sample by sample.
    """
    for name in ("prompt_das", "detectron2", "fvcore"):  # a second run of the same process: do not say all twice
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="prompt_das", abbrev_name="prompt_das")
    default_setup(cfg, args)
    torch.manual_seed(cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed())


def setup(args: argparse.Namespace) -> CfgNode:
    """The config of a tool's arguments, with the run started, see :func:`start`."""
    cfg = get_prompt_das_cfg(args.config_file, args.opts)
    start(cfg, args)
    return cfg
