"""Which layers are segmented, and what happens when they are deleted."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from plugin_harness import PluginHarness


@pytest.mark.parametrize(
    ("shape", "kwargs", "says"),
    [((40, 40, 3), {"rgb": True}, "in color"), ((40, 40, 3), {"rgb": False}, "colors"), ((2, 2, 9, 9), {}, "4 dim")],
)
def test_colors_are_refused(ready: PluginHarness, shape: tuple, kwargs: dict, says: str) -> None:
    ready.segment(np.zeros(shape, np.uint8), **kwargs)
    assert says in ready.notified["error"][0]
    assert ready.controller.image_sessions.current is None
    assert len(ready.viewer.layers) == 1


def test_layers_of_an_image(harness: PluginHarness, image: np.ndarray) -> None:
    """In napari's list the last one is on top."""
    harness.segment(image, name="em")
    assert [layer.name for layer in harness.viewer.layers] == [
        "em",
        "em instances",
        "em negative prompts",
        "em prompts",
    ]
    assert harness.viewer.layers.selection.active is harness.prompts
    assert str(harness.prompts.mode) == str(harness.negative_prompts.mode) == "add"
    assert harness.prompts.current_symbol != harness.negative_prompts.current_symbol


def test_beside_the_volume_nothing_is_requested(ready: PluginHarness, image: np.ndarray) -> None:
    """Another layer makes the viewer's range longer than the image."""
    ready.segment(image)
    ready.viewer.add_image(np.zeros((9, 9, 9), np.uint8))
    ready.viewer.dims.set_current_step(0, 8)
    assert ready.controller.image_sessions.slice_in_view is None
    assert ready.controller.progress is None
    assert ready.notified == {"error": [], "warning": [], "info": ready.notified["info"]}


@pytest.mark.parametrize("which", ["image", "prompts", "negative prompts", "instances"])
def test_a_layer_is_deleted_while_the_network_works(ready: PluginHarness, image: np.ndarray, which: str) -> None:
    layer = ready.segment(image)
    ready.prompts.add([0, 20, 30])
    gone = {
        "image": layer,
        "prompts": ready.prompts,
        "negative prompts": ready.negative_prompts,
        "instances": ready.instances,
    }[which]
    ready.viewer.layers.remove(gone)
    assert ready.controller.image_sessions.current is None
    ready.work()
    if which != "image":
        ready.controller.choose(layer)
        ready.work()
        assert ready.instances in ready.viewer.layers
        assert ready.instances.data[0].any()
    assert ready.notified["error"] == []
