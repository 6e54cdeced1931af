"""The demo as a newcomer runs it, from a strange volume to a figure."""

from __future__ import annotations

import json
from pathlib import Path

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.cli import demo
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.point_files import read_clicks
from prompt_das_cli import main

import cv2
import pytest

pytestmark = pytest.mark.usefixtures("quiet_logging", "forget_new_names")
STAGES = ["as the model comes", "with ten clicks", "adapted", "adapted, with them"]


def test_a_tiny_demo(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Volume, clicks, adaptation, a table and a figure; the numbers of an untrained network mean nothing."""
    options = [*tiny, "INPUT.PIXEL_SIZE", "20.0", "MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder"]
    cfg = get_prompt_das_cfg(None, options)
    export_weights(tmp_path / "tiny.safetensors", PromptDAS(cfg).state_dict(), cfg.dump())
    monkeypatch.setattr(demo, "SHAPE", (3, 96, 96))
    monkeypatch.setattr(demo, "CLICKED_SLICES", (0, 1))
    monkeypatch.setattr(demo, "SHOWN_SLICE", 2)
    words = ["--weights", str(tmp_path / "tiny.safetensors"), "--output", str(tmp_path / "out"), "SOLVER.MAX_ITER", "3"]
    main(["demo", *words])

    results = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert list(results) == STAGES
    assert all(set(scores) == {"Dice", "AJI", "PQ"} for parts in results.values() for scores in parts.values())
    assert cv2.imread(str(tmp_path / "out" / "demo.png")) is not None
    assert open_volume(tmp_path / "out" / "stranger.tif").voxel_size == pytest.approx((45, 12, 12))
    assert sum(map(len, read_clicks(tmp_path / "out" / "clicks.json").values())) == 10
    assert "| as the model comes" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_shows_that_clicks_help_and_the_adaptation_does_no_harm(tmp_path: Path) -> None:
    main(["demo", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "demo.json").read_text())
    start, clicked, adapted, _ = (results[stage] for stage in STAGES)
    assert start["all others"]["Dice"] > 75
    assert start["all others"]["PQ"] > 50
    assert clicked["slices clicked on"]["Dice"] > start["slices clicked on"]["Dice"] + 2
    assert adapted["all others"]["Dice"] > start["all others"]["Dice"] - 1
