"""The schedule of an adaptation: as many iterations as fit into the time, by how long the first ones take."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_das.adaptation.pseudo_points import predict_points
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.validation import value_of
from prompt_das.data.slices import read_image
from prompt_das.engine.run_folder import CONFIG
from prompt_das.engine.trainer import build_trainer
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.volumes.point_files import write_points

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

# The optimizer's averages begin from nothing, and its first steps move each weight by the whole learning rate: without
# a warm-up a trained network is gone after a few of them.
WARMUP_RATIO = 0.05  # of the iterations,
WARMUP_LEAST = 50  # and at least so many, though never more than half of the run (prompt_das.engine.solver)
SCORES = 10  # moments to choose from; each costs one prediction of the held-out windows
SCORES_BUDGET = 0.1  # of the time, that the scores may take at most
RESERVE = 0.1  # of the time, for the scores, checkpoints and the end
FEWEST_ITERATIONS = 20  # whatever the budget: fewer change nothing
SCHEDULE = ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
FIRST = 3  # iterations that are not timed: memory is allocated, workers start
TIMED = 7  # iterations, and more where TIMED_BUDGET allows: by so few, ten minutes of one machine held 548 to 707
TIMED_BUDGET = 0.03  # of the time
MANY_ITERATIONS = 1_000_000


def as_options(settings: Mapping[str, Any]) -> list[str]:
    """Settings by key -> KEY, VALUE, ... as on a command line."""
    return [word for key, value in settings.items() for word in (key, str(value))]


def make_schedule(iterations: int, scores: int) -> list[str]:
    """The settings ``SCHEDULE`` (KEY, VALUE, ...) of so many iterations with so many scores."""
    period = math.ceil(iterations / scores)
    warmup = max(math.ceil(WARMUP_RATIO * iterations), WARMUP_LEAST)
    return as_options(dict(zip(SCHEDULE, (iterations, warmup, period, period), strict=True)))


def fit_schedule(seconds: float, each: float, score_seconds: float) -> list[str]:
    """The settings ``SCHEDULE`` that fit into the time.

    Args:
        seconds: that are left.
        each: seconds of an iteration.
        score_seconds: of a score at the held-out clicks.
    """
    iterations = int(seconds * (1 - RESERVE) / each)
    if iterations < FEWEST_ITERATIONS:
        logger.warning(
            "The minutes are enough for %d iterations of %.1f s, which would change nothing: there will be %d",
            *(max(iterations, 0), each, FEWEST_ITERATIONS),
        )
        iterations = FEWEST_ITERATIONS
    affordable = int(SCORES_BUDGET * seconds / score_seconds) if score_seconds > 0 else SCORES
    return make_schedule(iterations, min(max(affordable, 1), SCORES))


def measure_schedule(seconds: float, cfg: CfgNode, score_seconds: float) -> list[str]:
    """As :func:`fit_schedule`, with the iterations of ``cfg`` timed first; that counts as well."""
    begun = time.monotonic()
    each = seconds_per_iteration(cfg, TIMED_BUDGET * seconds)
    return fit_schedule(seconds - (time.monotonic() - begun), each, score_seconds)


def schedule_of(folder: Path) -> list[str]:
    """The settings ``SCHEDULE`` of the run in a folder."""
    cfg = get_prompt_das_cfg(folder / CONFIG)
    return as_options({key: value_of(cfg, key) for key in SCHEDULE})


def seconds_to_make_points(model: PromptDAS, slices: Sequence[dict[str, Any]], scale: float) -> float:
    """How long the network will take to make the points of the unsupervised mode, by one slice of a volume."""
    middle = slices[len(slices) // 2]
    begun = time.monotonic()
    image = read_image(middle, scale=scale)
    predict_points(model, image, scale, {"threshold": 1.0, "kernel": 1, "top_k": 1})
    return (time.monotonic() - begun) * len(slices)


class StepTimes(HookBase):
    """The time at the end of each iteration, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @property
    def mean(self) -> float:
        """Seconds of an iteration; not the median: what comes now and then, such as a decoded slice, counts as well."""
        return float(np.mean(np.diff(self.times)[FIRST - 1 :]))

    def after_step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.monotonic())


def seconds_per_iteration(cfg: CfgNode, budget: float) -> float:
    """Train for some iterations as ``cfg`` says, and forget it -> seconds of each.

    In the unsupervised mode there are no points: to make them takes longer than this may.

    Args:
        budget: seconds that this may take, or as long as a few iterations do.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = MANY_ITERATIONS  # the loaders work until the end, as in the run itself
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder
        if not cfg.DATASETS.SPARSE_POINTS.FILE:
            file = Path(folder) / "no_points.json"
            write_points(file, {})
            cfg.DATASETS.SPARSE_POINTS.FILE, cfg.DATASETS.SPARSE_POINTS.RATIO = str(file), 1.0
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=False)
        times = StepTimes()
        trainer._hooks = []  # Detectron2 has no other way to leave them out
        trainer.register_hooks([trainer.metrics, times])
        trainer.max_iter = FIRST + TIMED
        trainer.train()
        trainer.start_iter = trainer.max_iter
        trainer.max_iter += max(int(budget / times.mean) - TIMED, 0)
        trainer.train()
    return times.mean
