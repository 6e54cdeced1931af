"""Simulated users and what is counted of them, with networks made by hand."""

from __future__ import annotations

from prompt_das.evaluation.clicks import (
    NO_CLICKS,
    User,
    click_curve,
    corrective_click,
    single_click_effects,
    summarize_curves,
    summarize_effects,
)

import numpy as np
import pytest

CAREFUL = User()


def boxes(*corners: tuple[int, int, int], size: int = 60) -> np.ndarray:
    """A mask of squares (row, column, side)."""
    mask = np.zeros((size, size), bool)
    for row, column, side in corners:
        mask[row : row + side, column : column + side] = True
    return mask


TRUTH = boxes((5, 5, 11), (5, 40, 9), (40, 5, 7))
WRONG = boxes((40, 40, 9))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_click_lies_at_the_center_of_the_largest_error() -> None:
    """The largest square of 11 pixels is missed: its center is pixel (10, 10), the point (10.5, 10.5)."""
    assert corrective_click(TRUTH, np.zeros_like(TRUTH), CAREFUL, rng()).tolist() == [[10.5, 10.5, 1]]


def test_a_click_on_what_is_wrong_is_negative() -> None:
    assert corrective_click(TRUTH, TRUTH | WRONG, CAREFUL, rng()).tolist() == [[44.5, 44.5, 0]]


def test_who_sees_no_error_does_not_click() -> None:
    assert len(corrective_click(TRUTH, TRUTH, CAREFUL, rng())) == 0


def test_a_click_anywhere_lies_in_the_same_error() -> None:
    clicks = np.concatenate(
        [corrective_click(TRUTH, np.zeros_like(TRUTH), User(anywhere=1), rng(seed)) for seed in range(50)]
    )
    assert ((clicks[:, :2] >= 5) & (clicks[:, :2] <= 16)).all()
    assert len(np.unique(clicks, axis=0)) > 20


def test_a_double_click_is_two_clicks_beside_each_other() -> None:
    corner = boxes((0, 0, 1))
    for seed in range(20):
        first, second = corrective_click(corner, np.zeros_like(corner), User(double=1), rng(seed))
        assert first.tolist() == [0.5, 0.5, 1]
        assert np.abs(first - second).max() <= 1
        assert second[:2].min() >= 0.5


def test_a_mistake_is_a_positive_click_on_background() -> None:
    for seed in range(20):
        (click,) = corrective_click(TRUTH, TRUTH | WRONG, User(mistake=1), rng(seed))
        assert click[2] == 1
        assert not TRUTH[int(click[1]), int(click[0])]


def follows_clicks(clicks: np.ndarray) -> np.ndarray:
    """A network that finds WRONG and the first true square alone, and follows each click."""
    parts = [boxes((5, 5, 11)), boxes((5, 40, 9)), boxes((40, 5, 7)), WRONG]
    shown = [True, False, False, True]
    for x, y, label in clicks:
        for i, part in enumerate(parts):
            if part[int(y), int(x)]:
                shown[i] = bool(label)
    return np.any([part for part, on in zip(parts, shown, strict=True) if on] or [boxes()], axis=0).astype(np.float32)


def ignores_clicks(clicks: np.ndarray) -> np.ndarray:
    return follows_clicks(NO_CLICKS)


def test_the_curve_of_a_network_that_follows() -> None:
    """Three errors: two missed squares and a wrong one. After three clicks all is right, and the user stops."""
    curve = click_curve(follows_clicks, TRUTH, (0, 1, 2, 3, 10), CAREFUL, rng())
    dice = {number: scores["Dice"] for number, scores in summarize_curves([curve]).items()}
    assert dice[0] == pytest.approx(100 * 2 * 121 / (251 + 202))
    assert dice[0] < dice[1] < dice[2] < dice[3] == dice[10] == 100


def test_the_curve_of_a_network_that_ignores_clicks_is_flat() -> None:
    curve = summarize_curves([click_curve(ignores_clicks, TRUTH, (0, 5), CAREFUL, rng())])
    assert curve[0] == curve[5]


def test_effects_of_single_clicks() -> None:
    effects = summarize_effects([single_click_effects(follows_clicks, TRUTH)])
    assert (effects["missed"], effects["appeared"], effects["wrong"], effects["gone"]) == (2, 2, 1, 1)
    assert (effects["others"], effects["others appeared"]) == (2, 0)
    assert effects["changed"] == 81 + 49 + 81
    assert effects["changed elsewhere"] == 0


def test_a_network_that_ignores_clicks_has_no_effects() -> None:
    effects = summarize_effects([single_click_effects(ignores_clicks, TRUTH)])
    assert (effects["missed"], effects["appeared %"], effects["gone %"]) == (2, 0, 0)
    assert np.isnan(effects["changed elsewhere %"])


def test_what_appears_elsewhere_is_counted() -> None:
    """Any click makes everything appear: both missed squares with each click on one of them."""
    effects = single_click_effects(lambda clicks: (TRUTH if len(clicks) else boxes()).astype(np.float32), TRUTH)
    assert (effects["missed"], effects["others"], effects["others appeared"]) == (3, 6, 6)
    assert effects["changed elsewhere"] == 2 * TRUTH.sum()
