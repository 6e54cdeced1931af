"""What all tests share. prompt_das comes first: an old Detectron2 cannot be imported before it."""

from __future__ import annotations

import os
from pathlib import Path

import prompt_das

import numpy as np
import pytest
import torch
from hypothesis import settings

assert prompt_das.__version__
torch.set_num_threads(1)  # the tests share the cores with each other
settings.register_profile("prompt_das", deadline=None, derandomize=True)  # the same examples on every run
settings.load_profile("prompt_das")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Root of the real data sets, as datasets/README.md lays them out; tests that ask for it skip without."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    if not (root / "lucchi").is_dir():
        pytest.skip(f"no real data in {root}: set DETECTRON2_DATASETS")
    return root
