"""What a run needs beside its config, checked before a network is built: registered parts, data, points, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.data.build import get_slices
from prompt_das.data.builtin import SYNTHETIC
from prompt_das.data.physical_scale import NetworkScale
from prompt_das.data.sparse_points import find_points_file, read_dataset_points, require_labels, require_one_target
from prompt_das.evaluation.evaluator import PROTOCOLS
from prompt_das.evaluation.metrics import SCORES
from prompt_das.modeling.registries import check_registered

from detectron2.config import CfgNode


def check_run(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check everything that training, or with ``eval_only`` the evaluation of ``DATASETS.TEST``, will look up.

    Only headers and the target's points are read, no pixels.

    Raises:
        ValueError: a name that is not registered, a data set without slices or labels, unusable points, a metric that
            no evaluation yields. The message names the key.
        FileNotFoundError: data or points are missing.
    """
    check_registered(cfg)
    check_windows(cfg)
    check_metrics(cfg)
    if eval_only:
        check_datasets(cfg, "TEST", required=True)
        return
    source_free = cfg.DOMAIN_ADAPT.ENABLED and bool(cfg.MODEL.WEIGHTS)
    check_datasets(cfg, "TRAIN", required=not source_free)
    check_datasets(cfg, "VAL")
    check_datasets(cfg, "TEST")
    if cfg.DOMAIN_ADAPT.ENABLED:
        check_target(cfg)


def check_windows(cfg: CfgNode) -> None:
    """Raise ValueError for windows that leave gaps; crops and pictures need none, so configs with gaps load."""
    if cfg.TEST.WINDOW.STRIDE > cfg.INPUT.CROP_SIZE:
        raise ValueError(
            f"TEST.WINDOW.STRIDE is {cfg.TEST.WINDOW.STRIDE}; use at most INPUT.CROP_SIZE {cfg.INPUT.CROP_SIZE}, the "
            "side of the window, or pixels in between are never predicted"
        )


def check_metrics(cfg: CfgNode) -> None:
    """Raise ValueError for an unknown protocol, or for a ``BEST_METRIC`` that evaluating ``VAL`` does not yield."""
    unknown = [name for name in cfg.TEST.PROTOCOLS if name not in PROTOCOLS]
    if unknown or not cfg.TEST.PROTOCOLS:
        raise ValueError(f"TEST.PROTOCOLS is {tuple(cfg.TEST.PROTOCOLS)}; use one or more of {', '.join(PROTOCOLS)}")
    if not cfg.DATASETS.VAL:
        return
    scores = [*SCORES, *(f"pooled {score}" for score in SCORES)]
    known = [
        f"{protocol}/{ratio:.0%}/{score}"
        for protocol in cfg.TEST.PROTOCOLS
        for ratio in cfg.TEST.PROMPT_RATIOS
        for score in scores
    ]
    if cfg.TEST.BEST_METRIC not in known:
        raise ValueError(
            f"TEST.BEST_METRIC is {cfg.TEST.BEST_METRIC!r}; with TEST.PROTOCOLS and TEST.PROMPT_RATIOS as they are, "
            f"evaluation yields {', '.join(name for name in known if name.endswith('/Dice'))}, and the same for "
            f"{', '.join(scores[1:])}"
        )


def check_datasets(cfg: CfgNode, key: str, *, required: bool = False) -> None:
    """Raise ValueError or FileNotFoundError for names of ``DATASETS.<key>`` that are not labeled data sets."""
    names = cfg.DATASETS[key]
    if required and not names:
        raise ValueError(f"DATASETS.{key} is empty; name labeled volumes, as in DATASETS.{key} \"('vnc_train',)\"")
    for name in names:
        slices = slices_of(key, name)
        check_scale(cfg, key, slices[0])
        if any(dataset_dict["label_file_name"] is None for dataset_dict in slices):
            raise ValueError(
                f"DATASETS.{key}: {name} has no labels; they are needed to train and to evaluate. Unlabeled volumes "
                "belong in DATASETS.TARGET, or are predicted by `prompt-das predict`"
            )


def check_target(cfg: CfgNode) -> None:
    """Raise ValueError or FileNotFoundError for target volumes, or points on them, that adaptation cannot use."""
    node = cfg.DATASETS.SPARSE_POINTS
    require_one_target(node.FILE, cfg.DATASETS.TARGET)
    for name in cfg.DATASETS.TARGET:
        slices = slices_of("TARGET", name)
        check_scale(cfg, "TARGET", slices[0])
        own = find_points_file(name)
        if own and node.RATIO == 0:
            raise ValueError(
                f"DATASETS.SPARSE_POINTS.RATIO is 0.0, the unsupervised mode, but DATASETS.TARGET {name} comes with "
                f"points, {own}; remove RATIO to use them, or `points` from its description"
            )
        file = node.FILE or own
        if file:
            check_points(file, slices[0])
        elif node.RATIO > 0:
            require_labels(name, slices)


def check_scale(cfg: CfgNode, key: str, first: dict[str, Any]) -> None:
    """Raise ValueError unless the scale of the volume of the slice ``first`` is known."""
    try:
        NetworkScale.from_config(cfg).of_slice(first)
    except ValueError as error:
        raise ValueError(f"DATASETS.{key}: {error}") from error


def check_points(file: str | Path, first: dict[str, Any]) -> None:
    """Raise unless ``file`` holds points on the volume of the slice ``first``."""
    try:
        read_dataset_points(file, first)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"DATASETS.SPARSE_POINTS: {error}") from error


def slices_of(key: str, name: str) -> list[dict[str, Any]]:
    """The slices of a data set of ``DATASETS.<key>``; errors name the key."""
    if name == SYNTHETIC and key != "TRAIN":
        raise ValueError(f"DATASETS.{key}: {SYNTHETIC} is drawn anew for each crop, so only DATASETS.TRAIN can name it")
    try:
        return get_slices((name,))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"DATASETS.{key}: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"DATASETS.{key}: {error}") from error
