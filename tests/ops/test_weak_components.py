"""Components of which the network is nowhere sure become background."""

from __future__ import annotations

from prompt_das.ops.weak_components import suppress_weak_components

import numpy as np

NO_CLICKS = np.zeros((0, 3), np.float32)
N = np.nan
PROBABILITY = np.array(
    [
        [0.6, 0.6, 0.1, 0.9, 0.6],
        [0.1, 0.1, 0.1, 0.1, 0.7],
        [0.6, 0.1, 0.1, 0.1, 0.1],
        [0.7, 0.1, 0.8, N, N],
    ],
    np.float32,
)


def foreground(clicks: np.ndarray = NO_CLICKS, confidence: float = 0.8) -> list[list[int]]:
    return (suppress_weak_components(PROBABILITY, confidence, clicks) > 0.5).astype(int).tolist()


def test_a_component_stays_whole_if_one_pixel_is_sure() -> None:
    """The one at the top right reaches 0.9, the one at the bottom 0.8; both at the left are below."""
    assert foreground() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]


def test_a_component_with_a_positive_click_stays() -> None:
    assert foreground(np.array([[0.5, 2.5, 1]])) == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [1, 0, 1, 0, 0]]
    assert foreground(np.array([[0.5, 2.5, 0], [2.5, 1.5, 1]])) == foreground()


def test_nothing_else_changes() -> None:
    kept = suppress_weak_components(PROBABILITY, 0.65, NO_CLICKS)
    np.testing.assert_array_equal(kept[1:], PROBABILITY[1:])
    np.testing.assert_array_equal(kept[0, 2:], PROBABILITY[0, 2:])
    assert kept.dtype == PROBABILITY.dtype
    np.testing.assert_array_equal(kept[0, :2], [0.5, 0.5])


def test_an_empty_prediction_stays_empty() -> None:
    empty = np.zeros((3, 4), np.float32)
    np.testing.assert_array_equal(suppress_weak_components(empty, 0.8, NO_CLICKS), empty)
