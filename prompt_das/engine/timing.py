"""How long an iteration takes, measured on the first ones of a training that is then forgotten."""

from __future__ import annotations

import tempfile
import time

from prompt_das.engine.trainer import build_trainer

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

FIRST = 3  # iterations: memory is allocated, workers start
TIMED = 7


class StepTimes(HookBase):
    """The time at the end of each iteration, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.monotonic())


def seconds_per_iteration(cfg: CfgNode) -> float:
    """Train for a few iterations as ``cfg`` says, without writing or evaluating anything -> seconds of each."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = FIRST + TIMED
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=False)
        times = StepTimes()
        trainer._hooks = []  # Detectron2 has no other way to leave them out
        trainer.register_hooks([trainer.metrics, times])
        trainer.train()
    # The mean, not the median: what comes now and then, such as a decoded slice, costs time as well.
    return float(np.mean(np.diff(times.times)[FIRST - 1 :]))
