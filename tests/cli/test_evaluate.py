"""The command that evaluates: what it makes of its own arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.physical_scale import NetworkScale
from prompt_das.engine.setup import config_of_args
from prompt_das.inference.volume.source import VolumeSource
from prompt_das_cli import main

import pytest
import torch
from detectron2.config import CfgNode

CONFIG = "quick/synthetic_wda"
PHYSICAL = ["INPUT.SCALE", "1.0", "INPUT.PIXEL_SIZE", "16"]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CfgNode]:
    """The config that ``prompt-das evaluate`` with these words would evaluate."""
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr("prompt_das.cli.train.run", seen.append)

    def run(*words: str) -> CfgNode:
        main(["evaluate", "--config-file", CONFIG, *words])
        return get_prompt_das_cfg(CONFIG, seen[-1].opts)

    return run


def test_weights_go_into_the_config(evaluated: Callable[..., CfgNode]) -> None:
    assert evaluated("--weights", "model.safetensors").MODEL.WEIGHTS == "model.safetensors"


def test_a_diameter_decides_the_scale(evaluated: Callable[..., CfgNode]) -> None:
    assert NetworkScale.from_config(evaluated("--diameter", "29", *PHYSICAL)).of(None, "lab") == 0.5
    assert NetworkScale.from_config(evaluated("--diameter", "14.5", *PHYSICAL)).of((30, 8, 8), "lab") == 1


def test_a_diameter_says_where_outlines_lie(evaluated: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the volume that is evaluated, for the network that is."""
    seen = []

    def fit(weights: str, volume: VolumeSource, **_: object) -> list[str]:
        seen.append((weights, volume.volume, volume.diameter))
        return ["MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY", "0.8"]

    monkeypatch.setattr("prompt_das.cli.evaluate.outline_of_diameter", fit)
    cfg = evaluated("--weights", "m.safetensors", "--diameter", "29", *PHYSICAL, "DATASETS.TEST", "('lab',)")
    assert cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY == 0.8
    assert seen == [("m.safetensors", "lab", 29)]


def test_a_diameter_is_of_one_volume_and_of_a_physical_scale(evaluated: Callable[..., CfgNode]) -> None:
    with pytest.raises(SystemExit, match="--diameter is of one volume, not of a, b"):
        evaluated("--diameter", "29", *PHYSICAL, "DATASETS.TEST", "('a', 'b')")
    with pytest.raises(SystemExit, match="was not"):
        evaluated("--diameter", "29")


def test_without_a_config_file_the_one_inside_the_weights_counts(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    export_weights(weights, {"x": torch.zeros(1)}, "VERSION: 2\nINPUT: {CROP_SIZE: 96, PIXEL_SIZE: 17.0}\n")
    args = argparse.Namespace(config_file=None, weights=str(weights), eval_only=True)
    cfg = config_of_args(args, ["INPUT.PIXEL_SIZE", "20"])
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.PIXEL_SIZE) == (96, 20)
    args.config_file = CONFIG
    assert config_of_args(args, []).INPUT.PIXEL_SIZE == 0
    args = argparse.Namespace(config_file=None, eval_only=False)  # a training
    assert config_of_args(args, []).INPUT.CROP_SIZE == 384
