"""The pictures of the documentation can be made again."""

from __future__ import annotations

from pathlib import Path

from prompt_das.napari import samples

import cv2
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")


@pytest.mark.slow
@pytest.mark.usefixtures("screen")
def test_every_picture(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SHAPE", (3, 96, 96))
    from docs import screenshots  # needs napari

    monkeypatch.setattr(screenshots, "SETTLE", 0.0)
    monkeypatch.setattr(screenshots, "SLICE", 1)
    monkeypatch.setattr(screenshots, "CLOSE_UP", ((48, 48), 2.0))
    screenshots.main(["--weights", str(weights), "--output", str(tmp_path)])
    guide = (Path(__file__).parents[2] / "docs" / "getting_started" / "first_clicks.md").read_text()
    pictures = sorted(tmp_path.iterdir())
    assert all(f"]({path.name})" in guide for path in pictures)
    assert guide.count(".png)") == len(pictures)
    assert all(cv2.imread(str(path)).std() > 10 for path in pictures)  # there is something to see
