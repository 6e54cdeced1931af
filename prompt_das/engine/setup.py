"""Start of a run: its config, logging, output folder and seeds."""

from __future__ import annotations

import argparse
import logging

from prompt_das.config.find import find_config
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.datasets import register_config_volumes
from prompt_das.engine import run_folder

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


def setup_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's logging, output folder and seeds, and the same for this package.

    Every rank is seeded alike: the weights must start equal, and the data are seeded sample by sample.
    """
    for name in ("prompt_das", "detectron2", "fvcore"):  # a second run of the same process: do not say all twice
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="prompt_das", abbrev_name="prompt_das")
    if getattr(args, "config_file", None):  # Detectron2 opens it to log it, so it has to be a path
        args = argparse.Namespace(**{**vars(args), "config_file": str(find_config(args.config_file))})
    default_setup(cfg, args)
    torch.manual_seed(cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed())


def setup_from_args(args: argparse.Namespace) -> CfgNode:
    """The config of a tool's arguments, with the run started, see :func:`setup_run` and ``run_folder.begin``."""
    cfg = get_prompt_das_cfg(args.config_file, args.opts)
    if not args.eval_only:
        run_folder.begin(
            cfg,
            resume=args.resume,
            overwrite=getattr(args, "overwrite", False),
            allow_changes=getattr(args, "allow_changes", False),
        )
    register_config_volumes(cfg, args.config_file)
    setup_run(cfg, args)
    return cfg
