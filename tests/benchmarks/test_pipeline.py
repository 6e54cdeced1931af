"""The whole pipeline and its peer find the same."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.__main__ import main

import pytest


@pytest.mark.slow
def test_both_pipelines_find_the_same_instances(tmp_path: Path) -> None:
    main(["pipeline", "--size", "512", "--slices", "3", "--repeats", "1", "--output", str(tmp_path / "out.json")])
    ours, peer = json.loads((tmp_path / "out.json").read_text())["pipeline"]
    assert ours["runs"][0]["instances"] == peer["runs"][0]["instances"] > 5
    assert ours["runs"][0]["foreground"] == pytest.approx(peer["runs"][0]["foreground"], rel=1e-3)
    for result in (ours, peer):
        assert 0 < result["network"]["median"] < result["seconds"]["median"]
