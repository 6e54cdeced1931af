"""Start of a run: its config, logging, output folder and seeds."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from prompt_das.checkpoint.model_zoo import find_weights, settings_of
from prompt_das.checkpoint.safe_load import read_config
from prompt_das.config.find import find_config
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.plugins import import_plugins
from prompt_das.data.datasets import register_config_volumes
from prompt_das.engine import run_folder
from prompt_das.engine.checks import check_run

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

COLOR = re.compile(r"\x1b\[[0-9;]*m")


class PlainFormatter(logging.Formatter):
    """Another formatter's text without its color codes, for files and pipes."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return COLOR.sub("", self.inner.format(record))


def setup_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's logging, output folder and seeds, and the same for this package.

    Every rank is seeded alike: the weights must start equal, and the data are seeded sample by sample.
    """
    for name in ("prompt_das", "detectron2", "fvcore"):  # else a second run in this process would log each line twice
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    rank = comm.get_rank()
    loggers = [
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="prompt_das", abbrev_name="prompt_das"),
        # The arguments are those of default_setup, whose own calls then return these loggers.
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore"),
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank),
    ]
    for handler in {handler for one in loggers for handler in one.handlers}:
        if isinstance(handler, logging.StreamHandler) and not handler.stream.isatty() and handler.formatter:
            handler.setFormatter(PlainFormatter(handler.formatter))
    # Warns, when Detectron2 lists the environment, that there is no CUDA runtime: nothing here compiles for one.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    if getattr(args, "config_file", None):  # Detectron2 opens it to log it, so it has to be a path
        args = argparse.Namespace(**{**vars(args), "config_file": str(find_config(args.config_file))})
    default_setup(cfg, args)
    torch.manual_seed(cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed())


def config_of_args(args: argparse.Namespace, opts: Sequence[str]) -> CfgNode:
    """The config of a tool's arguments; of an evaluation that names none, the one inside the weights, if there is one.

    Raises:
        FileNotFoundError, ValueError: there are no such weights or config, or they cannot be used.
    """
    weights = getattr(args, "weights", None)
    if not (args.eval_only and weights) or args.config_file:
        return get_prompt_das_cfg(args.config_file, opts)
    file = find_weights(weights)
    name = f"the config inside of {weights}"
    return get_prompt_das_cfg(None, [*settings_of(file), *opts], text=read_config(file), name=name)


def setup_from_args(args: argparse.Namespace) -> CfgNode:
    """The config of a tool's arguments, checked, with ``OUTPUT_DIR`` locked, after :func:`setup_run`.

    The ``config.yaml`` of a run that is in ``OUTPUT_DIR`` stays: an evaluation never replaces it, and a training only
    when it starts (``run_folder.start``).

    Plugins that are given take the place of those that the config file names.

    Raises:
        ValueError, OSError: the config or its data cannot be used, see :func:`~prompt_das.engine.checks.check_run`.
    """
    given = import_plugins(getattr(args, "plugin", []))  # Detectron2's own parser has no such argument
    opts = ["PLUGINS", str(given), *args.opts] if given else args.opts
    cfg = config_of_args(args, opts)
    import_plugins(cfg.PLUGINS)
    register_config_volumes(cfg, args.config_file)
    try:
        check_run(cfg, eval_only=args.eval_only)
    except (ValueError, OSError) as error:
        raise type(error)(f"{args.config_file}: {error}" if args.config_file else str(error)) from error
    if not args.eval_only:
        run_folder.begin(
            cfg,
            resume=args.resume,
            overwrite=getattr(args, "overwrite", False),
            allow_changes=getattr(args, "allow_changes", False),
        )
    with run_folder.keep_config(Path(cfg.OUTPUT_DIR)):
        setup_run(cfg, args)
    return cfg
