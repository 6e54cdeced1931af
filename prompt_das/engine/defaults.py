"""From the command line to a config, and from a file of weights to a network: the same for every tool."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint import PromptDASCheckpointer, read_metadata
from ..data.datasets import register_volumes_from_yaml
from ..modeling.meta_arch import PromptDAS
from ..yaml_files import parse_yaml, read_config_file
from .config_checks import check, defaults

# What yacs raises for keys and values that it does not take; the last three for text that only looks like a value.
REFUSED = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, MemoryError, OverflowError)


def get_prompt_das_cfg(
    config_file: str | Path | None = None, opts: Sequence[str] | None = None, *, text: str = "", name: str = "config"
) -> CfgNode:
    """The frozen config: defaults, then a YAML file or ``text``, then overrides ``["KEY", "VALUE", ...]``.

    The volumes of ``DATASETS.VOLUMES`` are registered, and ``MODEL.DEVICE`` becomes "cpu" where there is no GPU.

    Args:
        name: where ``text`` comes from, for messages.

    Raises:
        FileNotFoundError: no config file, no base of it, or no volume.
        ValueError: no plain YAML, a key that does not exist, or a value that makes no sense; names file and key.
    """
    cfg = defaults()
    if config_file:
        merge(cfg, read_config_file(config_file), str(config_file))
    if text:
        merge(cfg, parse_yaml(text, name), name)
    try:
        cfg.merge_from_list(list(opts or []))
    except REFUSED as e:
        raise ValueError(f"config options {' '.join(map(str, opts or []))}: {reason(e)}") from e
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    try:
        check(cfg)
    except ValueError as e:
        source = str(config_file) if config_file else name if text else ""
        raise ValueError(f"{source}: {e}" if source else str(e)) from e
    skip_burn_in(cfg)
    for path in cfg.DATASETS.VOLUMES:
        try:
            register_volumes_from_yaml(path)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"DATASETS.VOLUMES{f' of {config_file}' if config_file else ''}: {e}") from e
    cfg.freeze()
    return cfg


def merge(cfg: CfgNode, content: object, name: str) -> None:
    """Override ``cfg`` with what a file holds. Raises ValueError that names the file and the key."""
    if not isinstance(content, dict):
        raise ValueError(f"{name}: a config holds lines `KEY: value`, not a {type(content).__name__}")
    version = content.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise ValueError(f"{name}: VERSION is {version!r}; this release reads {cfg.VERSION}")
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except REFUSED as e:
        raise ValueError(f"{name}: {reason(e)}") from e


def reason(error: Exception) -> str:
    """What went wrong; a KeyError would put it into quotes, and yacs would quote whole sections."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return re.sub(r" with values \(.{200,}\) for config", " for config", text, flags=re.DOTALL)


def skip_burn_in(cfg: CfgNode) -> None:
    """With ``MODEL.WEIGHTS``, a trained model, there is nothing left to pretrain or burn in."""
    if cfg.MODEL.WEIGHTS:
        cfg.MODEL.VIT.WEIGHTS = ""
    if cfg.DOMAIN_ADAPT.ENABLED and cfg.MODEL.WEIGHTS:
        cfg.SOLVER.MAX_ITER -= cfg.DOMAIN_ADAPT.BURN_IN_ITERS
        cfg.DOMAIN_ADAPT.BURN_IN_ITERS = 0


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
        check_complete(config_file)
    own = ["MODEL.VIT.WEIGHTS", "", "DATASETS.VOLUMES", "()"]  # the data of the training are not needed
    cfg = get_prompt_das_cfg(config_file, [*own, *opts], text=text, name=f"the config inside of {weights}")
    model = build_for(cfg, weights)
    load_weights(cfg, model, weights)
    return cfg, model.eval()


def build_for(cfg: CfgNode, weights: Path) -> PromptDAS:
    """The untrained network of a config. Raises ValueError if there is none, or if ``weights`` cannot be of it."""
    num_values = sum(value.numel() for value in meta_network(cfg).state_dict().values())
    if num_values > weights.stat().st_size:
        raise ValueError(
            f"{weights} has {weights.stat().st_size} bytes, too few for the {num_values} values of the network of "
            "its config; is the file complete, and is the config its own?"
        )
    try:
        return PromptDAS(cfg).to(cfg.MODEL.DEVICE)
    except RuntimeError as e:
        raise ValueError(f"the network cannot be brought to MODEL.DEVICE {cfg.MODEL.DEVICE!r}: {e}") from e


def meta_network(cfg: CfgNode) -> PromptDAS:
    """The network of a config without its values: it takes no memory, whatever the config says.

    Raises:
        ValueError: there is no such network.
    """
    try:
        with torch.device("meta"):
            return PromptDAS(cfg)
    except (RuntimeError, KeyError, TypeError, AssertionError, ZeroDivisionError) as e:
        raise ValueError(f"no network can be built from this config: {reason(e)}") from e


def check_complete(config_file: str | Path) -> None:
    """Raise ValueError for the ``config.yaml`` of a run that was cut off: what it lost would silently be the default.

    Its keys are in the order of the alphabet: VERSION is among the last.
    """
    if "VERSION" not in read_config_file(config_file):
        raise ValueError(
            f"{config_file} is not the complete config of a run, it has no VERSION; name the config with --config-file"
        )


def load_weights(cfg: CfgNode, model: PromptDAS, weights: str | Path) -> None:
    """Fill ``model`` from a checkpoint: with its teacher or its student, as ``TEACHER.EVALUATE`` says."""
    weights_from = "teacher" if cfg.DOMAIN_ADAPT.TEACHER.EVALUATE else "model"
    PromptDASCheckpointer(model, weights_from=weights_from).load(str(weights), checkpointables=[])
