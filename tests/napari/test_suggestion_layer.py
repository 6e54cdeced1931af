"""Predicted centers are a layer; each becomes a prompt, or goes for good."""

from __future__ import annotations

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from plugin_harness import PluginHarness, same_instances


@pytest.fixture
def suggesting(ready: PluginHarness, image: np.ndarray) -> PluginHarness:
    ready.segment(image)
    ready.controller.set_suggest(True)
    ready.work()
    return ready


def test_suggestions_are_predicted_centers(suggesting: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    """The surest one is selected."""
    centers = by_hand.predict([], image=image[0], centers=True).centers
    assert centers is not None
    assert len(centers.points) > 3
    np.testing.assert_allclose(suggesting.centers.data[:, :0:-1] + 0.5, centers.points, atol=1e-4)
    assert suggesting.centers.selected_data == {0}


def test_an_accepted_suggestion_becomes_a_prompt(
    suggesting: PluginHarness, by_hand: Predictor, image: np.ndarray
) -> None:
    place = suggesting.centers.data[0].copy()
    suggesting.controller.suggestions.accept()
    suggesting.work()
    np.testing.assert_allclose(suggesting.prompts.data, [place])
    assert not (suggesting.centers.data == place).all(axis=1).any()
    expected = by_hand.predict([place[:0:-1] + 0.5], image=image[0])
    assert same_instances(suggesting.instances.data[0], expected.instances)


@pytest.mark.parametrize("how", ["reject", "delete"])
def test_a_rejected_suggestion_does_not_come_back(suggesting: PluginHarness, how: str) -> None:
    place = suggesting.centers.data[0].copy()
    if how == "reject":
        suggesting.controller.suggestions.reject()
    else:
        suggesting.centers.selected_data = {0}
        suggesting.centers.remove_selected()
    suggesting.prompts.add([0, 69, 59])
    suggesting.work()
    assert len(suggesting.centers.data) > 0
    distance = np.linalg.norm(suggesting.centers.data - place, axis=1)
    assert distance.min() > 1
    assert len(suggesting.prompts.data) == 1


def test_beside_a_negative_click_nothing_is_suggested(suggesting: PluginHarness) -> None:
    """It is suggested again when the click is taken back, since the click alone said that it is none."""
    before = suggesting.centers.data.copy()
    suggesting.negative_prompts.add(before[0])
    suggesting.work()
    assert 0 < len(suggesting.centers.data) < len(before)
    assert not (suggesting.centers.data == before[0]).all(axis=1).any()
    suggesting.negative_prompts.data = before[:0]
    suggesting.work()
    assert np.array_equal(suggesting.centers.data, before)


def test_suggestions_of_other_slices_stay(suggesting: PluginHarness) -> None:
    first = len(suggesting.centers.data)
    suggesting.viewer.dims.set_current_step(0, 1)
    suggesting.work()
    z = suggesting.centers.data[:, 0]
    assert (z == 0).sum() == first
    assert (z == 1).sum() > 0
    (selected,) = suggesting.centers.selected_data
    assert suggesting.centers.data[selected, 0] == 1


def test_the_layer_of_suggestions_may_be_deleted(suggesting: PluginHarness) -> None:
    suggesting.viewer.layers.remove(suggesting.centers)
    suggesting.controller.suggestions.accept()
    suggesting.prompts.add([0, 69, 59])
    suggesting.work()
    assert len(suggesting.centers.data) > 0
