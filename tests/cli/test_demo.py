"""The demo as a newcomer runs it, from data to figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prompt_das.cli import demo as demo_command
from prompt_das.cli import make_synthetic
from prompt_das_cli import main

import cv2
import pytest

pytestmark = pytest.mark.usefixtures("quiet_logging", "forget_new_names")


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, dict[str, float]]]:
    """Runs `prompt-das demo` with some overrides -> its table."""
    monkeypatch.setenv("DETECTRON2_DATASETS", "")  # the demo sets it; taken back after the test
    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", lambda: "")

    def run(*overrides: str) -> dict[str, dict[str, float]]:
        main(["demo", "--output", str(tmp_path), *overrides])
        return json.loads((tmp_path / "demo.json").read_text())

    return run


def test_a_tiny_demo(
    demo: Callable,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Data, two trainings, a table and a figure; with so short a training the numbers mean nothing."""
    monkeypatch.setattr(demo_command, "write_domain", partial(make_synthetic.write_domain, size=96, slices=6))
    results = demo(*tiny, "SOLVER.MAX_ITER", "2", "DOMAIN_ADAPT.BURN_IN_ITERS", "0")
    assert len(results) == 6
    assert all(set(scores) == {"Dice", "AJI", "PQ"} for scores in results.values())
    picture = cv2.imread(str(tmp_path / "demo.png"))
    assert picture is not None
    assert "| source model, 0% prompts" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_shows_that_adaptation_and_prompts_help(demo: Callable) -> None:
    results = demo()
    dice = {name: scores["Dice"] for name, scores in results.items()}
    assert dice["adapted, 15 % points, 0% prompts"] > dice["source model, 0% prompts"] + 2
    assert dice["adapted, 15 % points, 100% prompts"] > dice["adapted, 15 % points, 0% prompts"]
