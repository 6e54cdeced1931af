"""Clicks on a whole data set, with a network of seconds."""

from __future__ import annotations

import json
from pathlib import Path

from prompt_das.engine import evaluate_clicks
from prompt_das.modeling.load import build_model

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
