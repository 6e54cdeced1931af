"""Alt+click in the layer of prompts makes a negative prompt."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from plugin_harness import PluginHarness


@pytest.fixture
def clicking(harness: PluginHarness, image: np.ndarray) -> PluginHarness:
    harness.segment(image)
    return harness


def both(harness: PluginHarness) -> tuple[list, list]:
    return harness.prompts.data.tolist(), harness.negative_prompts.data.tolist()


def test_a_click_is_positive_and_with_alt_it_is_negative(clicking: PluginHarness) -> None:
    clicking.click((0, 20, 30))
    clicking.click((0, 40, 10), "Alt")
    clicking.click((0, 50, 20))
    assert both(clicking) == ([[0, 20, 30], [0, 50, 20]], [[0, 40, 10]])
    assert clicking.viewer.layers.selection.active is clicking.prompts


def test_other_keys_change_nothing(clicking: PluginHarness) -> None:
    clicking.click((0, 20, 30), "Shift")
    assert both(clicking) == ([[0, 20, 30]], [])


def test_a_click_in_the_layer_of_negative_prompts_is_negative(clicking: PluginHarness) -> None:
    clicking.viewer.layers.selection.active = clicking.negative_prompts
    clicking.click((0, 20, 30))
    clicking.click((0, 40, 10), "Alt")
    assert both(clicking) == ([], [[0, 20, 30], [0, 40, 10]])


def test_an_alt_click_counts_where_it_is_seen(harness: PluginHarness, image: np.ndarray) -> None:
    harness.segment(image, scale=(30, 8, 8), translate=(60, -16, 100))
    harness.click((60, 20 * 8 - 16, 30 * 8 + 100), "Alt")
    np.testing.assert_allclose(harness.negative_prompts.data, [[0, 20, 30]])


def test_other_modes_are_napari_s(clicking: PluginHarness) -> None:
    """Alt has meanings of its own there; and back in the mode for adding, it is as it was."""
    prompts = clicking.prompts
    callbacks = list(prompts.mouse_drag_callbacks)
    for mode in ("select", "pan_zoom", "add", "add", "pan_zoom"):
        prompts.mode = mode
    clicking.click((0, 20, 30), "Shift")
    assert both(clicking) == ([], [])
    prompts.mode = "add"
    assert prompts.mouse_drag_callbacks == callbacks
    clicking.click((0, 20, 30), "Alt")
    assert both(clicking) == ([], [[0, 20, 30]])


def test_after_closing_alt_click_is_any_click(clicking: PluginHarness) -> None:
    prompts, negative = clicking.prompts, clicking.negative_prompts
    clicking.controller.close()
    clicking.click((0, 20, 30), "Alt")
    assert len(prompts.data) == 1
    assert len(negative.data) == 0
    prompts.mode = "pan_zoom"
    prompts.mode = "add"
    clicking.click((0, 40, 10))
    assert len(prompts.data) == 2
