"""The network is adapted to a layer and its clicks, in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari import adapt as adapting
from prompt_das.napari.adapt import adapt_to_clicks, run_command
from prompt_das.napari.layers import LayerVolume
from prompt_das.volumes.point_files import read_clicks

CLICKS = {1: np.array([[3.5, 4.5, 1], [8.5, 9.5, 0]], np.float32)}


@pytest.fixture
def volume() -> LayerVolume:
    return LayerVolume(np.random.default_rng(0).integers(0, 255, (3, 20, 30), dtype=np.uint8), "scan")


def test_the_last_line_of_a_command_is_what_came_of_it() -> None:
    reports: list[tuple[int, int]] = []
    text = run_command(["models", "--help"], 60, lambda done, total: reports.append((done, total)))
    assert "--download" in text or "URL" in text
    assert reports
    assert all(done <= total for done, total in reports)


def test_a_refusal_is_in_the_command_s_own_words(tmp_path: Path) -> None:
    words = ["adapt", "--weights", "nothing.pth", "--input", str(tmp_path), "--output", str(tmp_path / "a.pth")]
    with pytest.raises(ValueError, match=r"nothing\.pth"):
        run_command(words, 60, lambda done, total: None)


def test_a_command_that_is_cancelled_ends(tmp_path: Path) -> None:
    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_command(["demo", "--output", str(tmp_path)], 600, cancel)
    assert time.monotonic() - begun < 20


def test_the_command_gets_the_layer_the_clicks_and_the_size(
    volume: LayerVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def run(words: list[str], seconds: float, report: object) -> str:
        options = dict(zip(words[1::2], words[2::2], strict=False))
        seen["clicks"] = read_clicks(options["--points"])
        seen["input"] = Path(options["--input"]).is_dir()
        seen["words"], seen["seconds"] = words, seconds
        return "done"

    monkeypatch.setattr(adapting, "run_command", run)
    weights, output = tmp_path / "w.pth", tmp_path / "mine.safetensors"
    report = lambda done, total: None  # noqa: E731
    assert adapt_to_clicks(weights, volume, None, output, CLICKS, None, 12.0, report, minutes=2) == "done"
    np.testing.assert_array_equal(seen["clicks"][1], CLICKS[1])
    assert seen["input"]
    assert seen["seconds"] == 120
    assert "--diameter" in seen["words"]
    adapt_to_clicks(weights, volume, None, output, CLICKS, (30.0, 8.0, 8.0), None, report)
    at = seen["words"].index("--voxel-size")
    assert seen["words"][at + 1 : at + 4] == ["30.0", "8.0", "8.0"]
    assert list(tmp_path.iterdir()) == []  # copy and clicks are gone
