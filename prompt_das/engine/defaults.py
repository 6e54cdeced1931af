"""From the command line to a config, and from a file of weights to a network: the same for every tool."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint import PromptDASCheckpointer, read_metadata
from ..config import add_prompt_das_config
from ..data.datasets import register_volumes_from_yaml
from ..modeling.meta_arch import PromptDAS


def get_prompt_das_cfg(config_file: str | None = None, opts: Sequence[str] | None = None, *, text: str = "") -> CfgNode:
    """The frozen config: defaults, then a YAML file or ``text``, then overrides ``["KEY", "VALUE", ...]``.

    The volumes of ``DATASETS.VOLUMES`` are registered, and ``MODEL.DEVICE`` becomes "cpu" where there is no GPU.
    """
    cfg = get_cfg()
    add_prompt_das_config(cfg)
    if config_file:
        cfg.merge_from_file(config_file, allow_unsafe=False)
    if text:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    cfg.merge_from_list(list(opts or []))
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
    if cfg.DATALOADER.MAX_CORRUPT_SLICES < 0:
        raise ValueError(
            f"DATALOADER.MAX_CORRUPT_SLICES is {cfg.DATALOADER.MAX_CORRUPT_SLICES}; use 0 to stop at the first slice "
            "that cannot be read, or the number of slices that may be left out"
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


def load_model(
    weights: str | Path, config_file: str | Path | None = None, opts: Sequence[str] = ()
) -> tuple[CfgNode, PromptDAS]:
    """A trained network, ready for inference, and its config.

    Args:
        weights: a training checkpoint (its teacher is taken unless the config says otherwise) or a safetensors file.
        config_file: by default the config inside the safetensors file, else the ``config.yaml`` beside the weights.
        opts: overrides of the config, for example ``["MODEL.DEVICE", "cpu"]``.

    Raises:
        FileNotFoundError: no weights, or no config for them.
        ValueError: the file is damaged, or its weights do not fit the config.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}")
    text = "" if config_file else read_metadata(weights).get("prompt_das.config", "")
    if not config_file and not text:
        config_file = weights.parent / "config.yaml"
        if not config_file.is_file():
            raise FileNotFoundError(
                f"{weights} has no config inside, and there is no {config_file}; name the config it was trained with"
            )
    own = ["MODEL.VIT.WEIGHTS", "", "DATASETS.VOLUMES", "()"]  # the data of the training are not needed
    cfg = get_prompt_das_cfg(str(config_file) if config_file else None, [*own, *opts], text=text)
    model = PromptDAS(cfg).to(cfg.MODEL.DEVICE)
    load_weights(cfg, model, weights)
    return cfg, model.eval()


def load_weights(cfg: CfgNode, model: PromptDAS, weights: str | Path) -> None:
    """Fill ``model`` from a checkpoint: with its teacher or its student, as ``TEACHER.EVALUATE`` says."""
    weights_from = "teacher" if cfg.DOMAIN_ADAPT.TEACHER.EVALUATE else "model"
    PromptDASCheckpointer(model, weights_from=weights_from).load(str(weights), checkpointables=[])
