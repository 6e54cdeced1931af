"""From a file of weights to a network, ready for inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.model_zoo import find_weights, settings_of
from prompt_das.checkpoint.safe_load import read_config
from prompt_das.config.load import check_complete, get_prompt_das_cfg, reason
from prompt_das.config.plugins import import_plugins, require_plugins
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.registry import look_up

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY


def load_model(
    weights: str | Path,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    *,
    device: str | torch.device | None = None,
) -> tuple[CfgNode, PromptDAS]:
    """A trained network, ready for inference, and its config.

    Args:
        weights: a training checkpoint (its teacher is taken unless the config says otherwise) or a safetensors file, or
            the name of a model, see :mod:`prompt_das.checkpoint.model_zoo`.
        config_file: by default the config inside the weights, else the ``config.yaml`` beside them.
        opts: overrides of the config, for example ``["MODEL.DEVICE", "cpu"]``.
        plugins: take the place of those that the config names, which are never imported because it names them, see
            :mod:`prompt_das.config.plugins`.
        device: by default the config's, or the CPU where there is no GPU.

    Raises:
        FileNotFoundError: no weights, or no config or plugin for them.
        ValueError: the file is damaged, its weights do not fit the config, the config needs a plugin, or there is no
            such device.
    """
    if device is not None:
        if torch.device(device).type != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device is {str(device)!r}, but torch finds no GPU here; use 'cpu' or leave it out")
        opts = [*opts, "MODEL.DEVICE", str(device)]
    weights = find_weights(weights)
    cfg = config_of_weights(weights, config_file, opts, plugins)
    model = build_for_weights(cfg, weights)
    load_weights(cfg, model, weights)
    return cfg, model.eval()


def config_of_weights(
    weights: Path,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    *,
    beside: Path | None = None,
) -> CfgNode:
    """The config of a file of weights: ``config_file``, else the one inside the file, else the one beside it.

    What ``models.yaml`` says of the file's settings takes the place of those inside of it.

    Args:
        beside: by default the ``config.yaml`` in the folder of the weights.

    Raises:
        FileNotFoundError: there is none of the three.
        ValueError: the file of weights or the config is damaged, or the config needs a plugin.
    """
    text = "" if config_file else read_config(weights)
    if not config_file and not text:
        config_file = beside or weights.parent / "config.yaml"
        if not config_file.is_file():
            raise FileNotFoundError(
                f"{weights} has no config inside, and there is no {config_file}; name the config it was trained with"
            )
        check_complete(config_file)
    own = ["MODEL.VIT.WEIGHTS", "", "DATASETS.VOLUMES", "()"]  # the data of the training are not needed
    given = import_plugins(plugins)
    kept = ["PLUGINS", str(given)] if given else []
    name = f"the config inside of {weights}"
    found = settings_of(weights) if text else []
    cfg = get_prompt_das_cfg(config_file, [*own, *found, *kept, *opts], text=text, name=name)
    if not given:
        require_plugins(cfg.PLUGINS, weights)
    return cfg


def resolve_device(cfg: CfgNode) -> torch.device:
    """``MODEL.DEVICE``, or the CPU where there is no GPU."""
    return torch.device(cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu")


def build_model(cfg: CfgNode) -> PromptDAS:
    """Build the untrained network in training mode, as Detectron2's ``build_model``, on :func:`resolve_device`."""
    return build_untrained(cfg).to(resolve_device(cfg))


def build_untrained(cfg: CfgNode) -> PromptDAS:
    """Build ``MODEL.META_ARCHITECTURE`` on torch's default device."""
    return look_up(META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE)(cfg)


def build_for_weights(cfg: CfgNode, weights: Path) -> PromptDAS:
    """Build the untrained network for a file of weights.

    Raises:
        ValueError: no network can be built from the config, or the file is too small to hold its weights.
    """
    num_values = sum(value.numel() for value in build_on_meta_device(cfg).state_dict().values())
    if num_values > weights.stat().st_size:
        raise ValueError(
            f"{weights} has {weights.stat().st_size} bytes, too few for the {num_values} values of the network of "
            "its config; is the file complete, and is the config its own?"
        )
    try:
        return build_model(cfg)
    except RuntimeError as e:
        raise ValueError(f"the network cannot be brought to MODEL.DEVICE {cfg.MODEL.DEVICE!r}: {e}") from e


def build_on_meta_device(cfg: CfgNode) -> PromptDAS:
    """Build a network of names and shapes alone: it takes no memory, however large a stranger's config makes it.

    Raises:
        ValueError: no network can be built from the config.
    """
    try:
        with torch.device("meta"):
            return build_untrained(cfg)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, ZeroDivisionError) as e:
        raise ValueError(f"no network can be built from this config: {reason(e)}") from e


def load_weights(cfg: CfgNode, model: PromptDAS, weights: str | Path) -> None:
    """Fill ``model`` from a checkpoint: with its teacher or its student, as ``TEACHER.EVALUATE`` says."""
    weights_from = "teacher" if cfg.DOMAIN_ADAPT.TEACHER.EVALUATE else "model"
    PromptDASCheckpointer(model, weights_from=weights_from).load(str(weights), checkpointables=[])
