"""Killed with SIGKILL at random moments and resumed each time, a run ends as if nothing had happened, to the bit.

Moments are drawn over the whole run: while it starts, steps, evaluates, makes pseudo points, writes a checkpoint.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.trainer import build_trainer

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "synthetic_uda.yaml"
# Unsupervised, since its source model also makes points and writes them; a checkpoint after every step.
RUN = {
    "MODEL.PRECISION": "float32",
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "DATALOADER.TARGET_IMS_PER_BATCH": 2,
    "DATASETS.VAL": "('synthetic_target_train[0:1]',)",
    "DATASETS.TEST": "()",
    "VIS_PERIOD": 0,
}


def train(options: list[str]) -> None:
    """What a new process does: ``prompt-das train --resume``, without its log."""
    torch.set_num_threads(1)
    logging.getLogger("detectron2").setLevel(logging.INFO)
    seed_all_rng(0)
    trainer = build_trainer(get_prompt_das_cfg(str(CONFIG), options))
    trainer.resume_or_load(resume=True)
    trainer.train()


@pytest.fixture
def start(tiny: list[str], synthetic_data: Path, start_process: Callable[..., Any]) -> Callable[[Path, int], Any]:
    """A process that trains so many iterations in a folder, from where it stopped."""

    def start(folder: Path, iterations: int) -> Any:
        lengths = {
            "SOLVER.MAX_ITER": iterations,
            "DOMAIN_ADAPT.BURN_IN_ITERS": 2 * iterations // 5,
            "TEST.EVAL_PERIOD": 3 * iterations // 10,
        }
        words = [str(word) for pair in ({**RUN, **lengths, "OUTPUT_DIR": folder}).items() for word in pair]
        return start_process(train, [*tiny, *words])

    return start


# Two in `make test-long`; the slow ones are those of `make test-faults`.
@pytest.mark.long
@pytest.mark.parametrize(("kills", "iterations"), [(2, 15), pytest.param(50, 50, marks=pytest.mark.slow)])
def test_killed_and_resumed_a_run_ends_as_if_it_had_not_been(
    start: Callable[[Path, int], Any],
    start_process: Callable[..., Any],
    tmp_path: Path,
    kills: int,
    iterations: int,
    rng: np.random.Generator,
    results_of: Callable[[Path], Any],
    assert_same: Callable[..., None],
) -> None:
    start_process(str).join()  # the first process waits for the imports, which the others find done
    before = time.perf_counter()
    start(tmp_path / "whole", iterations).join()
    duration = time.perf_counter() - before
    expected = results_of(tmp_path / "whole")
    assert expected[1][-1]["iteration"] == iterations  # the last evaluation; before it, each twentieth

    killed = runs = 0
    while killed < kills:
        folder = tmp_path / f"run{runs}"
        runs += 1
        done = False
        while not done:
            process = start(folder, iterations)
            if killed < kills:
                process.join(rng.uniform(0, 0.6) * duration)
                process.kill()
            process.join()
            done = process.exitcode == 0
            killed += not done
            assert done or process.exitcode == -signal.SIGKILL
        assert_same(results_of(folder), expected, f"after {killed} kills")
        assert not list(folder.glob("model_*.part"))
        assert len(list(folder.glob("model_0*.pth"))) == 2
    logging.getLogger(__name__).info("%d kills in %d runs of %.1f s", killed, runs, duration)
