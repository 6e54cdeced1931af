"""The part in view of a large slice is segmented first."""

from __future__ import annotations

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari import image_session
from prompt_das.napari.messages import Response

from plugin_harness import WAIT, PluginHarness, same_instances

CORNERS = np.array([[0, 40, 30], [0, 69, 59]])  # the lower right of (70, 60)


@pytest.fixture
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_session, "LARGE", 64)


@pytest.mark.usefixtures("_small_is_large")
def test_the_visible_part_comes_first_and_the_rest_follows(
    ready: PluginHarness, by_hand: Predictor, image: np.ndarray
) -> None:
    ready.segment(image)
    ready.instances.corner_pixels = CORNERS
    ready.viewer.dims.set_current_step(0, 1)
    responses = []
    while not responses or not responses[-1].complete:
        message = ready.messages.get(timeout=WAIT)
        ready.controller.receive(message)
        if isinstance(message, Response):
            responses.append(message)
    first = next(response for response in responses if response.segmentation.done == response.segmentation.total)
    assert not first.complete
    known = ~np.isnan(first.segmentation.probability)
    assert known[40:, 30:].all()
    assert not known.all()
    whole = by_hand.predict([], image=image[1])
    assert same_instances(ready.instances.data[1], whole.instances)
    np.testing.assert_array_equal(first.segmentation.probability[40:, 30:], whole.probability[40:, 30:])


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (CORNERS, (40, 30, 70, 60)),
        ([[0, 0, 0], [0, 0, 0]], None),  # nothing was drawn yet
        ([[0, 0, 0], [0, 69, 59]], None),  # all of it
    ],
)
@pytest.mark.usefixtures("_small_is_large")
def test_the_visible_part_of_a_large_slice(
    ready: PluginHarness, image: np.ndarray, corners: np.ndarray, expected: tuple | None
) -> None:
    ready.segment(image)
    ready.instances.corner_pixels = np.asarray(corners)
    current = ready.controller.image_sessions.current
    assert current is not None
    assert current.visible_part() == expected


def test_small_slices_have_no_visible_part(ready: PluginHarness, image: np.ndarray) -> None:
    ready.segment(image)
    ready.instances.corner_pixels = CORNERS
    current = ready.controller.image_sessions.current
    assert current is not None
    assert current.visible_part() is None
