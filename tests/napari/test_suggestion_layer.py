"""Suggested places are a layer; what the user answers becomes a prompt."""

from __future__ import annotations

from prompt_das.adaptation.proposals import propose_in_slice
from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari.suggestion_layer import relative_to

from plugin_harness import PluginHarness, same_instances


@pytest.fixture
def suggesting(ready: PluginHarness, image: np.ndarray) -> PluginHarness:
    ready.segment(image)
    ready.controller.set_suggest(True)
    ready.work()
    return ready


def test_suggestions_are_proposals_in_the_prediction(
    suggesting: PluginHarness, by_hand: Predictor, image: np.ndarray
) -> None:
    """The one of the largest expected error is selected."""
    probability = by_hand.predict([], image=image[0]).probability
    assert by_hand.scale is not None
    sigma = by_hand.cfg.MODEL.CENTER_HEAD.SIGMA / by_hand.scale
    proposals = propose_in_slice(probability, 0, 20, sigma=sigma, taken={})
    assert proposals
    places = suggesting.places
    np.testing.assert_allclose(places.data[:, :0:-1] + 0.5, [(place.x, place.y) for place in proposals])
    np.testing.assert_allclose(places.features["score"], [place.score for place in proposals])
    assert places.selected_data == {0}


@pytest.mark.parametrize("label", [1, 0])
def test_an_answered_suggestion_becomes_a_prompt_and_does_not_come_back(
    suggesting: PluginHarness, by_hand: Predictor, image: np.ndarray, label: int
) -> None:
    place = suggesting.places.data[0].copy()
    suggestions = suggesting.controller.suggestions
    (suggestions.accept if label else suggestions.reject)()
    suggesting.work()
    prompts = suggesting.prompts if label else suggesting.negative_prompts
    np.testing.assert_allclose(prompts.data, [place])
    assert not (suggesting.places.data == place).all(axis=1).any()
    expected = by_hand.predict([place[:0:-1] + 0.5], [label], image=image[0])
    assert same_instances(suggesting.instances.data[0], expected.instances)


def test_it_is_suggested_again_when_the_prompt_is_taken_back(suggesting: PluginHarness) -> None:
    before = suggesting.places.data.copy()
    suggesting.controller.suggestions.reject()
    suggesting.work()
    suggesting.negative_prompts.data = before[:0]
    suggesting.work()
    assert np.array_equal(suggesting.places.data, before)


def test_suggestions_of_other_slices_stay(suggesting: PluginHarness) -> None:
    first = len(suggesting.places.data)
    suggesting.viewer.dims.set_current_step(0, 1)
    suggesting.work()
    z = suggesting.places.data[:, 0]
    assert (z == 0).sum() == first
    assert (z == 1).sum() > 0
    (selected,) = suggesting.places.selected_data
    assert suggesting.places.data[selected, 0] == 1


def test_the_layer_of_suggestions_may_be_deleted(suggesting: PluginHarness) -> None:
    suggesting.viewer.layers.remove(suggesting.places)
    suggesting.controller.suggestions.accept()
    suggesting.prompts.add([0, 69, 59])
    suggesting.work()
    assert len(suggesting.places.data) > 0


def test_doubt_is_around_the_threshold() -> None:
    """The odds are divided by those of the threshold."""
    moved = relative_to(0.8, np.array([0.0, 0.5, 0.8, 1.0, np.nan]))
    np.testing.assert_allclose(moved, [0.0, 0.2, 0.5, 1.0, np.nan])
