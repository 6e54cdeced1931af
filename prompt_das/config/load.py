"""From a config file and overrides to a checked config. Nothing is registered, and no value is rewritten."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_das.config.defaults import defaults
from prompt_das.config.find import find_config
from prompt_das.config.validation import check, fit_type, value_of
from prompt_das.config.yaml_loader import parse_yaml, read_config_file

from detectron2.config import CfgNode

# What yacs raises for keys and values that it does not take; the last three for text that only looks like a value.
REFUSED = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, MemoryError, OverflowError)


# Keys of earlier releases. They are still read, with a warning that names the new one.
RENAMED_KEYS = {
    "SOLVER.MAX_BAD_STEPS": "SOLVER.MAX_NONFINITE_STEPS",
    "DOMAIN_ADAPT.POINTS.UNSURE": "DOMAIN_ADAPT.POINTS.IGNORE_THRESHOLD",
    "TEST.PROMPT_SHARES": "TEST.PROMPT_RATIOS",
}

logger = logging.getLogger(__name__)


def get_prompt_das_cfg(
    config_file: str | Path | None = None, opts: Sequence[str] | None = None, *, text: str = "", name: str = "config"
) -> CfgNode:
    """The frozen config: defaults, then a YAML file or ``text``, then overrides ``["KEY", "VALUE", ...]``.

    Nothing is registered: for the volumes of ``DATASETS.VOLUMES`` see
    :func:`prompt_das.data.datasets.register_config_volumes`.

    Args:
        config_file: a path, or the name of a config that comes with the package, see :func:`find_config`.
        name: where ``text`` comes from, for messages.

    Raises:
        FileNotFoundError: no config file, or no base of it.
        ValueError: no plain YAML, a key that does not exist, or a value that makes no sense; names file and key.
    """
    cfg = defaults()
    if config_file:
        merge(cfg, read_config_file(find_config(config_file)), str(config_file))
    if text:
        merge(cfg, parse_yaml(text, name), name)
    try:
        options = fit_options(rename_options(list(opts or [])), cfg)
    except REFUSED as e:
        raise ValueError(reason(e)) from e
    try:
        cfg.merge_from_list(options)
    except REFUSED as e:
        raise ValueError(f"config options {' '.join(map(str, opts or []))}: {reason(e)}") from e
    try:
        check(cfg)
    except ValueError as e:
        source = str(config_file) if config_file else name if text else ""
        raise ValueError(f"{source}: {e}" if source else str(e)) from e
    cfg.freeze()
    return cfg


def merge(cfg: CfgNode, content: object, name: str) -> None:
    """Override ``cfg`` with what a file holds. Raises ValueError that names the file and the key."""
    if not isinstance(content, dict):
        raise ValueError(f"{name}: a config holds lines `KEY: value`, not a {type(content).__name__}")
    version = content.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise ValueError(f"{name}: VERSION is {version!r}; this release reads {cfg.VERSION}")
    content = rename_keys(content, name)
    try:
        fit_types(content, cfg)
        cfg.merge_from_other_cfg(CfgNode(content))
    except REFUSED as e:
        raise ValueError(f"{name}: {reason(e)}") from e


def rename_keys(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of a nested config in which the keys of ``RENAMED_KEYS`` have their new names.

    Raises:
        ValueError: a key is there under both names.
    """
    content = copy.deepcopy(content)
    for old, new in RENAMED_KEYS.items():
        *sections, key = old.split(".")
        node: Any = content
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if not isinstance(node, dict) or key not in node:
            continue
        new_key = new.split(".")[-1]  # renamed in its section, never moved to another one
        if new_key in node:
            raise ValueError(f"{name}: {old} is the former name of {new}, and both are there; remove {old}")
        node[new_key] = node.pop(key)
        logger.warning("%s: %s is now called %s; please rename it", name, old, new)
    return content


def rename_options(opts: list[str]) -> list[str]:
    """``["KEY", "VALUE", ...]`` with the keys of ``RENAMED_KEYS`` under their new names."""
    for i, key in enumerate(opts[::2]):
        if key in RENAMED_KEYS:
            logger.warning("%s is now called %s; please rename it", key, RENAMED_KEYS[key])
            opts[2 * i] = RENAMED_KEYS[key]
    return opts


def fit_types(content: dict[str, Any], cfg: CfgNode, prefix: str = "") -> None:
    """Bring the values of a nested config to the types of ``cfg``, in place, see :func:`fit_type`."""
    for key, value in content.items():
        if key not in cfg:
            continue  # merging names it
        if isinstance(value, dict) and isinstance(cfg[key], CfgNode):
            fit_types(value, cfg[key], f"{prefix}{key}.")
        else:
            content[key] = fit_type(value, cfg[key], f"{prefix}{key}")


def fit_options(opts: list[Any], cfg: CfgNode) -> list[Any]:
    """``["KEY", "VALUE", ...]`` with values of the types of ``cfg``, see :func:`fit_type`."""
    for i in range(0, len(opts) - 1, 2):
        try:
            default = value_of(cfg, opts[i])
        except (KeyError, TypeError):
            continue  # merging names it
        opts[i + 1] = fit_type(opts[i + 1], default, opts[i])
    return opts


def reason(error: Exception) -> str:
    """What went wrong; a KeyError would put it into quotes, and yacs would quote whole sections."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return re.sub(r" with values \(.{200,}\) for config", " for config", text, flags=re.DOTALL)


def check_complete(config_file: str | Path) -> None:
    """Raise ValueError for the ``config.yaml`` of a run that was cut off: what it lost would silently be the default.

    Its keys are in the order of the alphabet: VERSION is among the last.
    """
    if "VERSION" not in read_config_file(config_file):
        raise ValueError(
            f"{config_file} is not the complete config of a run, it has no VERSION; name the config with --config-file"
        )
