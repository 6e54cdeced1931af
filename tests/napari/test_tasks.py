"""Long work is one task at a time, which can be cancelled and goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from plugin_harness import CLICKED, WAIT, PluginHarness, expected_volume, until


def test_only_one_long_work_at_a_time(ready: PluginHarness, weights: Path, image: np.ndarray, tmp_path: Path) -> None:
    """But clicks are answered meanwhile."""
    ready.segment(image)
    ready.controller.files.segment_volume(tmp_path / "volume.zarr")
    ready.controller.files.save_labels(tmp_path / "labels.tif")
    ready.controller.open_weights(weights)
    assert ["under way" in text for text in ready.notified["warning"]] == [True, True]
    ready.prompts.add([0, 20, 30])
    ready.work()
    assert (tmp_path / "volume.zarr").is_dir()
    assert 0 in ready.controller.image_sessions.current.responded


def test_cancelled_and_resumed(
    ready: PluginHarness, weights: Path, image: np.ndarray, tiff: Path, tmp_path: Path
) -> None:
    ready.segment(image)
    ready.prompts.add(CLICKED)
    ready.work()
    ready.controller.files.segment_volume(tmp_path / "volume.zarr")
    while ready.controller.tasks.progress[0] < 200:  # two slices are done
        ready.controller.receive(ready.messages.get(timeout=WAIT))
    ready.controller.tasks.cancel()
    assert ready.controller.tasks.progress is None
    until(lambda: not list(tmp_path.glob("*.points.json")))
    assert not (tmp_path / "volume.zarr").exists()
    assert "cancelled" in ready.notified["info"][-1]

    ready.controller.files.segment_volume(tmp_path / "volume.zarr")
    seen = []
    while ready.controller.tasks.progress is not None:
        seen.append(ready.controller.tasks.progress)
        ready.controller.receive(ready.messages.get(timeout=WAIT))
    assert min(done for done, total in seen if total == 400) >= 200  # two slices were left
    assert ready.notified["error"] == []
    assert np.array_equal(np.asarray(ready.viewer.layers[-1].data), expected_volume(weights, tiff, tmp_path))
