"""The same seed on the same machine is the same run. docs/RELIABILITY.md says where that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import read_checkpoint
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.trainer import build_trainer

import pytest
import torch
from detectron2.utils.env import seed_all_rng

pytestmark = pytest.mark.usefixtures("quiet_logging", "synthetic_data")

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "quick" / "synthetic_uda.yaml"
# Two iterations on the source and six on both: every part of the network, every loss, and the teacher's answers.
RUN = {
    "MODEL.PRECISION": "float32",
    "SOLVER.MAX_ITER": 8,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "DATALOADER.TARGET_IMS_PER_BATCH": 2,
    "DATASETS.VAL": "()",
    "DATASETS.TEST": "()",
    "VIS_PERIOD": 0,
    "DOMAIN_ADAPT.BURN_IN_ITERS": 2,
}


def options(tiny: list[str], folder: Path, **changes: Any) -> list[str]:
    run = {**RUN, "OUTPUT_DIR": folder, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [*tiny, *(str(word) for pair in run.items() for word in pair)]


@pytest.mark.slow
def test_two_processes_with_two_threads_each(tiny: list[str], tmp_path: Path, assert_same: Callable[..., None]) -> None:
    """As two users would start them, with loader workers. (With one thread each: test_faults.py.)"""
    program = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(CONFIG)]
    env = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    folders = [tmp_path / "first", tmp_path / "second"]
    jobs = [
        subprocess.Popen([*program, *options(tiny, folder, DATALOADER__NUM_WORKERS=1)], env=env) for folder in folders
    ]
    assert [job.wait(300) for job in jobs] == [0, 0]
    assert_same(*(read_checkpoint(folder / "model_final.pth") for folder in folders))


@pytest.fixture
def deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch uses no others: it raises where it knows of none."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic_algorithms")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_deterministic_algorithms_suffice(
    tiny: list[str], tmp_path: Path, assert_same: Callable[..., None], device: str
) -> None:
    def train(folder: Path) -> dict[str, Any]:
        seed_all_rng(0)
        trainer = build_trainer(get_prompt_das_cfg(str(CONFIG), options(tiny, folder, MODEL__DEVICE=device)))
        trainer.resume_or_load(resume=False)
        trainer.train()
        return read_checkpoint(folder / "model_final.pth")

    assert_same(train(tmp_path / "first"), train(tmp_path / "second"))
