"""Clicks on a whole data set, with a network of seconds."""

from __future__ import annotations

import json
from pathlib import Path

from prompt_das.engine import evaluate_clicks
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.modeling.load import build_model

import pytest
from detectron2.config import CfgNode


def test_the_curve_and_the_plot_are_written(tiny_cfg: CfgNode, synthetic_data: Path, tmp_path: Path) -> None:
    tiny_cfg.MODEL.PROMPT_ENCODER.NAME, tiny_cfg.TEST.CLICK_REACH = "ClickPromptEncoder", "object"
    tiny_cfg.DATASETS.TEST, tiny_cfg.OUTPUT_DIR = ("synthetic_target_val[0:1]",), str(tmp_path)
    results = evaluate_clicks.test(tiny_cfg, build_model(tiny_cfg))
    folder = tmp_path / "inference" / "synthetic_target_val[0:1]"
    written = json.loads((folder / "clicks.json").read_text())
    assert (folder / "clicks.png").read_bytes().startswith(b"\x89PNG")
    curves = results["synthetic_target_val[0:1]"]["curves"]
    assert list(curves["careful"]) == list(evaluate_clicks.NUMBERS)
    assert curves["careful"][0] == curves["sloppy"][0]  # no click yet
    assert written["curves"]["careful"]["20"]["Dice"] == curves["careful"][20]["Dice"]


def test_each_slice_is_clicked_at_its_physical_scale(
    tiny_cfg: CfgNode, synthetic_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The synthetic volumes have 8 nm a pixel."""
    tiny_cfg.INPUT.PIXEL_SIZE = 16.0
    scales: list[float | None] = []
    set_image = Predictor.set_image
    monkeypatch.setattr(
        Predictor,
        "set_image",
        lambda self, image, gray, *, scale: scales.append(scale) or set_image(self, image, gray, scale=scale),
    )
    monkeypatch.setattr(evaluate_clicks, "NUMBERS", (0, 1))
    results = evaluate_clicks.evaluate_clicks(tiny_cfg, build_model(tiny_cfg), "synthetic_target_val[0:1]")
    assert scales == [0.5]
    assert list(results["curves"]["careful"]) == [0, 1]
