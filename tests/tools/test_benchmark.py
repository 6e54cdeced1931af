"""tools/benchmark.py runs end to end on a CPU, so that it does not fail on a GPU for a silly reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("size", ["quick", "paper"])
def test_each_part_of_the_network_has_its_time(load_tool: Any, tiny: list[str], tmp_path: Path, size: str) -> None:
    out = tmp_path / "model.json"
    command = ["model", "--size", size, "--repeats", "1", "--output", str(out), "--", *tiny, "INPUT.CROP_SIZE", "32"]
    load_tool("benchmark").main(command)
    (result,) = json.loads(out.read_text())["model"]
    forward, training = result["forward of one image, ms"], result["training iteration, ms"]
    assert set(forward) == {"encoder", "decoder", "decoder + segmentation head", "decoder + both heads"}
    assert set(training) == {"forward", "backward", "optimizer", "EMA", "total"}
    assert min(*forward.values(), *training.values()) > 0
    assert result["size"] == size
