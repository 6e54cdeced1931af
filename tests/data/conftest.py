"""A config of a small adaptation, and volumes without labels."""

from __future__ import annotations

from pathlib import Path

from prompt_das.data.datasets import register_em_volume
from prompt_das.volumes.point_files import write_points

import numpy as np
import pytest
from detectron2.config import CfgNode

SOURCE, TARGET = "synthetic_source_train", "synthetic_target_train"


@pytest.fixture
def cfg(tiny_cfg: CfgNode, synthetic_data: Path) -> CfgNode:
    """Three iterations of burn-in, two of adaptation; two source and three target images each."""
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TARGET = (SOURCE,), (TARGET,)
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.DATALOADER.TARGET_IMS_PER_BATCH = 5, 3
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DOMAIN_ADAPT.BURN_IN_ITERS = True, 3
    return tiny_cfg


@pytest.fixture
def unlabeled(synthetic_data: Path, tmp_path: Path, forget_new_names: None) -> str:
    """A volume of ones own, with points and without labels."""
    write_points(tmp_path / "own.json", {0: np.array([[7.5, 8.5]], np.float32)})
    name = "mine"
    register_em_volume(name, synthetic_data / "synthetic/target/im", points=tmp_path / "own.json")
    register_em_volume(f"{name}_bare", synthetic_data / "synthetic/target/im")
    return name
