"""A small volume, and an untrained network to predict it."""

from __future__ import annotations

from pathlib import Path

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling import PromptDAS

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> Path:
    """An untrained tiny network, with windows of 32 pixels, whose foreground is about half of the image, in patches."""
    cfg = get_prompt_das_cfg(None, tiny)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    export_weights(path, PromptDAS(cfg).state_dict(), cfg.dump())
    return path


@pytest.fixture
def slices(rng: np.random.Generator) -> np.ndarray:
    """(5, 48, 40) uint8."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(5, 48, 40)), (1, 3, 3))
    return np.uint8(np.clip(128 + 900 * noise, 0, 255))


@pytest.fixture
def folder(tmp_path: Path, slices: np.ndarray) -> Path:
    """The slices as 0.png ... 4.png."""
    path = tmp_path / "scan"
    path.mkdir()
    for z, one in enumerate(slices):
        cv2.imwrite(str(path / f"{z}.png"), one)
    return path
