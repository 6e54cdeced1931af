"""While the network is adapted, what it has come to is shown in the slice in view."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari import file_actions
from prompt_das.napari.adapt import CheckpointWatch

from plugin_harness import WAIT, PluginHarness, same_instances


class FakeAdaptation:
    """Announces weights, then goes on until it is told to end."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.end = threading.Event()

    def __call__(self, *args: object, on_checkpoint: Callable[[Path], object]) -> str:
        report: Callable[[int, int], None] = args[7]  # type: ignore[assignment]
        on_checkpoint(self.weights)
        while not self.end.wait(0.01):
            report(1, 2)
        return "better"


@pytest.fixture
def adapting(
    ready: PluginHarness, weights_of_clicks: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeAdaptation:
    """An adaptation of the first slice's image is under way, and has come to other weights."""
    ready.segment(image, name="em")
    ready.prompts.add([0, 20, 30])
    ready.work()
    fake = FakeAdaptation(weights_of_clicks)
    monkeypatch.setattr(file_actions, "adapt_to_clicks", fake)
    ready.controller.files.adapt(tmp_path / "adapted.safetensors", use=lambda weights: None)
    current = ready.controller.image_sessions.current
    assert current is not None
    while current.preview is None:
        ready.controller.receive(ready.messages.get(timeout=WAIT))
    return fake


def test_the_slice_in_view_is_shown_as_the_adapted_network_sees_it(
    ready: PluginHarness, adapting: FakeAdaptation, clicks_by_hand: Predictor, by_hand: Predictor, image: np.ndarray
) -> None:
    """The network in use, its answer and the selected layer stay as they are."""
    preview = ready.viewer.layers["em preview"]
    expected = clicks_by_hand.predict([(30.5, 20.5)], image=image[0]).instances
    assert same_instances(np.asarray(preview.data[0]), expected)
    assert preview.contour > 0
    assert not np.asarray(preview.data[1:]).any()
    assert same_instances(ready.instances.data[0], by_hand.predict([(30.5, 20.5)], image=image[0]).instances)
    assert ready.viewer.layers.selection.active is ready.prompts
    adapting.end.set()
    ready.work()


@pytest.mark.parametrize("how", ["ends", "cancelled"])
def test_the_preview_goes_with_the_adaptation(ready: PluginHarness, adapting: FakeAdaptation, how: str) -> None:
    if how == "ends":
        adapting.end.set()
        ready.work()
    else:
        ready.controller.tasks.cancel()
    assert "em preview" not in ready.viewer.layers
    current = ready.controller.image_sessions.current
    assert current is not None
    assert current.preview is None


def test_weights_that_are_gone_already_give_no_preview(
    ready: PluginHarness, adapting: FakeAdaptation, tmp_path: Path
) -> None:
    ready.session.announce(tmp_path / "gone.pth")
    adapting.end.set()
    ready.work()
    assert ready.notified["error"] == []


def test_each_new_numbered_checkpoint_is_announced_once(tmp_path: Path) -> None:
    run, found = tmp_path / "out.pth.adapting", []
    watch = CheckpointWatch(run, found.append)
    watch()
    run.mkdir()
    for name in ("model_best.pth", "model_0000009.pth"):
        (run / name).touch()
        watch()
        watch()
    (run / "model_0000019.pth").touch()
    watch()
    (run / "model_0000009.pth").unlink()
    watch()
    assert [path.name for path in found] == ["model_0000009.pth", "model_0000019.pth"]
