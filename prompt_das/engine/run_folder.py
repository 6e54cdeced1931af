"""One run in one folder: no other run at the same time, none on top of it, and a resumed one with its own settings."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from prompt_das.config.load import check_complete, get_prompt_das_cfg
from prompt_das.config.schedule import burn_in_iters, num_iterations

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)

LOCK = ".lock"
# What a training writes and a later one would read or append to. Results of evaluations are replaced anyway.
LEFT_BY_A_RUN = (
    "model_*.pth",
    "last_checkpoint",
    "previous_checkpoint",
    "metrics.json",
    "sparse_points_*.json",
    "pseudo_points_*.json",
)
# Settings that make a run what it is, and the exceptions among them that change no weights.
COMPARED = ("MODEL", "INPUT", "DATASETS", "SOLVER", "DOMAIN_ADAPT", "SEED", "DATALOADER.TARGET_IMS_PER_BATCH")
FREE = (
    "MODEL.DEVICE",
    "MODEL.COMPILE",
    "DATASETS.VAL",
    "DATASETS.TEST",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.MAX_NONFINITE_STEPS",
)
_held: list[TextIO] = []  # locks end with the process


def begin(cfg: CfgNode, *, resume: bool, overwrite: bool = False, allow_changes: bool = False) -> None:
    """Make ``OUTPUT_DIR`` this process's own, before anything is written to it. Ranks other than 0 do nothing.

    Args:
        resume: continue the run in the folder, if there is one.
        overwrite: remove the run that is in the folder.
        allow_changes: resume with other settings, which are listed in the log.

    Raises:
        ValueError: another process trains there; there is a run, and neither ``resume`` nor ``overwrite``; the run was
            begun with other settings, and not ``allow_changes``.
    """
    if not comm.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    left = sorted(path for pattern in LEFT_BY_A_RUN for path in folder.glob(pattern))
    begun = [path for path in left if path.name.startswith("model_") or path.name == "metrics.json"]
    if resume:
        if begun:
            require_same_settings(cfg, folder / "config.yaml", allow_changes=allow_changes)
    elif overwrite:
        for path in left:
            path.unlink()
    elif begun:
        raise ValueError(
            f"OUTPUT_DIR {folder} holds a run already ({begun[0].name}): continue it with --resume, remove it with "
            "--overwrite, or set another OUTPUT_DIR"
        )


def lock(folder: Path) -> None:
    """Lock ``folder`` until this process ends. Raises ValueError, with the process that has it, if it is locked."""
    file = open(folder / LOCK, "a+")  # noqa: SIM115  (held until the process ends)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise ValueError(
            f"another training, process {holder}, is writing to OUTPUT_DIR {folder}; wait for it, end it, or set "
            "another OUTPUT_DIR"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _held.append(file)


def require_same_settings(cfg: CfgNode, begun_with: Path, *, allow_changes: bool = False) -> None:
    """Raise ValueError if ``cfg`` differs from the config file of the run in a setting that changes its weights.

    With ``allow_changes`` the differences are logged as a warning instead.
    """
    if not begun_with.is_file():
        return
    try:
        check_complete(begun_with)
        changes = changed_settings(get_prompt_das_cfg(begun_with), cfg)
    except ValueError as error:
        logger.warning("The settings that the run was begun with cannot be compared: %s", error)
        return
    if not changes:
        return
    listed = "; ".join(f"{key} was {old!r} and is {new!r}" for key, old, new in changes)
    if not allow_changes:
        raise ValueError(
            f"the run in {begun_with.parent} was begun with other settings: {listed}. Resume it with its own, or with "
            "--allow-changes if this is what you want"
        )
    logger.warning("The run in %s goes on with other settings: %s", begun_with.parent, listed)


def changed_settings(old: CfgNode, new: CfgNode) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of the settings that change the weights of a run."""
    before, after = dict(_settings(old)), dict(_settings(new))
    return [(key, before[key], value) for key, value in after.items() if key in before and before[key] != value]


def _settings(cfg: CfgNode) -> Iterator[tuple[str, Any]]:
    cfg = cfg.clone()
    cfg.defrost()
    # Earlier releases wrote what follows from MODEL.WEIGHTS into these keys.
    cfg.SOLVER.MAX_ITER, cfg.DOMAIN_ADAPT.BURN_IN_ITERS = num_iterations(cfg), burn_in_iters(cfg)
    if cfg.MODEL.WEIGHTS:
        cfg.MODEL.VIT.WEIGHTS = ""
    for key, value in _leaves(cfg):
        compared = any(key == name or key.startswith(f"{name}.") for name in COMPARED)
        if compared and key not in FREE:
            yield key, json.loads(json.dumps(value))  # in YAML there are no tuples


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
