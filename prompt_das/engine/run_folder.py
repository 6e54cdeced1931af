"""One run in one folder: no other run at the same time, none on top of it, and a resumed one with its own settings."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from prompt_das.config.load import check_complete, get_prompt_das_cfg
from prompt_das.config.schedule import burn_in_iters, num_iterations
from prompt_das.data.sparse_points import find_points_file
from prompt_das.utils.atomic_write import atomic_write

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)

LOCK = ".lock"
CONFIG = "config.yaml"
METRICS = "metrics.json"
POINTS = "points_sha256.json"  # dataset -> digest of its file of points when the run was started, null without a file
# What a training writes and a later one would read or append to. Results of evaluations are replaced anyway.
LEFT_BY_A_RUN = (
    "model_*.pth",
    "last_checkpoint",
    "previous_checkpoint",
    METRICS,
    POINTS,
    "sparse_points_*.json",
    "pseudo_points_*.json",
)
# Settings that make a run what it is, and the exceptions among them that change no weights.
COMPARED = ("MODEL", "INPUT", "DATASETS", "SOLVER", "DOMAIN_ADAPT", "SEED", "DATALOADER.TARGET_IMS_PER_BATCH")
FREE = (
    "INPUT.DIAMETER",
    "MODEL.DEVICE",
    "MODEL.COMPILE",
    "MODEL.CUDA_GRAPHS",
    "DATASETS.VAL",
    "DATASETS.TEST",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.MAX_NONFINITE_STEPS",
)
_held: list[TextIO] = []  # locks end with the process


def begin(cfg: CfgNode, *, resume: bool, overwrite: bool = False, allow_changes: bool = False) -> None:
    """Lock ``OUTPUT_DIR`` and check that this run may use it; :func:`start` writes. Ranks other than 0 do nothing.

    Args:
        resume: continue the run in the folder, if there is one.
        overwrite: replace the run that is in the folder; nothing is removed yet.
        allow_changes: resume with other settings or points, which are listed in the log.

    Raises:
        ValueError: another process trains there; there is a run, and neither ``resume`` nor ``overwrite``; the run was
            begun with other settings or points, and not ``allow_changes``; ``overwrite`` would remove a file that
            ``cfg`` names.
    """
    if not comm.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    begun = [path for path in run_files(folder) if path.name.startswith("model_") or _has_metrics(path)]
    if resume:
        if begun:
            require_same_run(cfg, folder, allow_changes=allow_changes)
    elif overwrite:
        require_not_removed(cfg, folder)
    elif begun:
        raise ValueError(
            f"OUTPUT_DIR {folder} holds a run already ({begun[0].name}): continue it with --resume, remove it with "
            "--overwrite, or set another OUTPUT_DIR"
        )


def start(cfg: CfgNode, *, overwrite: bool = False) -> None:
    """Write ``config.yaml`` and ``points_sha256.json``; with ``overwrite`` remove the run that was in ``OUTPUT_DIR``.

    To be called by all ranks once config, weights and data have been read, so that an error leaves the run of before.
    """
    if comm.is_main_process():
        folder = Path(cfg.OUTPUT_DIR)
        for path in run_files(folder) if overwrite else []:
            if path.name == METRICS:
                os.truncate(path, 0)  # this run's writer has opened it already, to append
            else:
                path.unlink()
        with atomic_write(folder / CONFIG) as part:
            part.write_text(cfg.dump())
        digests = {name: digest for name, (_, digest) in digests_of_points(cfg).items()}
        if digests:
            with atomic_write(folder / POINTS) as part:
                part.write_text(json.dumps(digests))
    comm.synchronize()  # the other ranks read points from the folder


@contextmanager
def keep_config(folder: Path) -> Iterator[None]:
    """Restore the ``config.yaml`` of a run in ``folder`` on leaving: Detectron2's ``default_setup`` replaces it."""
    path = folder / CONFIG
    before = path.read_bytes() if comm.is_main_process() and run_files(folder) and path.is_file() else None
    try:
        yield
    finally:
        if before is not None:
            with atomic_write(path) as part:
                part.write_bytes(before)


def run_files(folder: Path) -> list[Path]:
    """The files in ``folder`` that a training wrote and a later one would read or append to."""
    return sorted(path for pattern in LEFT_BY_A_RUN for path in folder.glob(pattern))


def require_not_removed(cfg: CfgNode, folder: Path) -> None:
    """Raise ValueError if overwriting the run in ``folder`` would remove a file that ``cfg`` names."""
    removed = {path.resolve() for path in run_files(folder)}
    named = {
        "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS,
        "MODEL.VIT.WEIGHTS": cfg.MODEL.VIT.WEIGHTS,
        "DATASETS.SPARSE_POINTS.FILE": cfg.DATASETS.SPARSE_POINTS.FILE,
    }
    for key, value in named.items():
        if value and Path(value).resolve() in removed:
            raise ValueError(
                f"{key} {value} belongs to the run in OUTPUT_DIR {folder}, which --overwrite removes; set another "
                "OUTPUT_DIR, or move the file out of the folder"
            )


def _has_metrics(path: Path) -> bool:
    """Whether ``path`` is a ``metrics.json`` with a line in it; a run that could not begin leaves an empty one."""
    return path.name == METRICS and path.stat().st_size > 0


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


def require_same_run(cfg: CfgNode, folder: Path, *, allow_changes: bool = False) -> None:
    """Raise ValueError if ``cfg`` or a file of points differs from the run in ``folder`` in what changes its weights.

    With ``allow_changes`` the differences are logged as a warning instead.
    """
    changes = []
    if (folder / CONFIG).is_file():
        try:
            check_complete(folder / CONFIG)
            settings = changed_settings(get_prompt_das_cfg(folder / CONFIG), cfg)
        except ValueError as error:
            logger.warning("The settings that the run was begun with cannot be compared: %s", error)
        else:
            changes = [f"{key} was {old!r} and is {new!r}" for key, old, new in settings]
    changes += changed_points(cfg, folder)
    if not changes:
        return
    listed = "; ".join(changes)
    if not allow_changes:
        raise ValueError(
            f"the run in {folder} was begun with other settings: {listed}. Resume it with its own, or with "
            "--allow-changes if this is what you want"
        )
    logger.warning("The run in %s goes on with other settings: %s", folder, listed)


def changed_settings(old: CfgNode, new: CfgNode) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of the settings that change the weights of a run."""
    before, after = dict(_settings(old)), dict(_settings(new))
    return [(key, before[key], value) for key, value in after.items() if key in before and before[key] != value]


def changed_points(cfg: CfgNode, folder: Path) -> list[str]:
    """Describe each file of points whose content is not what it was when the run in ``folder`` was last started.

    Runs of earlier releases have no record of them, and nothing is compared.
    """
    path = folder / POINTS
    try:
        before = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        logger.warning("The points that the run was begun with cannot be compared: %s is damaged: %s", path, error)
        before = {}
    changes = []
    for name, (file, digest) in digests_of_points(cfg).items():
        if name in before and before[name] != digest:
            new = f"{file} has another content" if before[name] and digest else f"{file or 'no file'} is new"
            changes.append(f"the points of {name}: {new}")
    return changes


def digests_of_points(cfg: CfgNode) -> dict[str, tuple[str, str | None]]:
    """For each target dataset its file of points and the SHA-256 of that, or ("", None) where there is no file."""
    digests: dict[str, tuple[str, str | None]] = {}
    for name in cfg.DATASETS.TARGET if cfg.DOMAIN_ADAPT.ENABLED else ():
        file = find_points_file(name, cfg.DATASETS.SPARSE_POINTS.FILE)
        digests[name] = (str(file), hashlib.sha256(Path(file).read_bytes()).hexdigest()) if file else ("", None)
    return digests


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
