"""Rounds of proposed clicks and adaptation: who is asked for what, and what is counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import click_rounds
from benchmarks.__main__ import main
from prompt_das.adaptation.proposals import Proposal
from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.data.datasets import find_volume
from prompt_das.data.slices import read_labels
from prompt_das.modeling import PromptDAS
from prompt_das.ops.points import instance_centers
from prompt_das.volumes.point_files import read_clicks

import pytest
from detectron2.config import CfgNode

VOLUME = "synthetic_target_train"


@pytest.mark.usefixtures("synthetic_data", "forget_new_names")
@pytest.mark.parametrize("size", [["--diameter", "14.5"], []], ids=["diameter", "voxel size"])
def test_each_round_adapts_to_all_clicks_so_far(
    tiny_cfg: CfgNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: list[str],
) -> None:
    tiny_cfg.INPUT.PIXEL_SIZE = 16.0
    start = tmp_path / "start.safetensors"
    export_weights(start, PromptDAS(tiny_cfg).state_dict(), tiny_cfg.dump())
    center = instance_centers(read_labels(find_volume(VOLUME)[0][0]))[1][0]
    asked: list[Any] = []

    def propose(weights: str, volume: Any, number: int, **_: Any) -> list[Proposal]:
        asked.append((weights, None if volume.points is None else len(read_clicks(volume.points)[0])))
        return [Proposal(0, *map(float, center), 1.0, ""), Proposal(0, 0.5, 0.5, 0.5, "")][:number]

    def adapt(weights: str, volume: Any, output: Path, **_: Any) -> Any:
        asked.append((weights, read_clicks(volume.points)[0][:, 2].tolist()))
        output.write_bytes(start.read_bytes())
        return SimpleNamespace(output=output)

    monkeypatch.setattr(click_rounds, "propose_clicks", propose)
    monkeypatch.setattr(click_rounds, "adapt", adapt)
    main(["click-rounds", "--weights", str(start), "--dataset", VOLUME, "--clicks", "2", *size])
    first, first_adapted, second, second_adapted = asked
    assert first == (str(start), None)
    assert first_adapted == (str(start), [1, 0])
    assert second[0].endswith("2.safetensors")
    assert second[1] == 2
    assert second_adapted == (str(start), [1, 0, 1, 0])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["0", "2", "4"]
