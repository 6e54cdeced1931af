"""Clicks that are kept aside: a seeded part of each kind, and a score that needs no masks."""

from __future__ import annotations

from typing import Any

from prompt_das.adaptation.held_out_clicks import (
    MOST,
    ClickWindows,
    HeldOutScore,
    box_around,
    object_at,
    split_clicks,
)
from prompt_das.data import crop_reader
from prompt_das.data.crop_reader import CropReader

import numpy as np
import pytest
import torch


def make_clicks(positive: int, negative: int) -> dict[int, np.ndarray]:
    """Clicks on three slices, no two of them alike."""
    labels = [1] * positive + [0] * negative
    rows = [(i % 3, [i + 0.5, 2 * i + 0.5, label]) for i, label in enumerate(labels)]
    return {z: np.array([row for at, row in rows if at == z], np.float32).reshape(-1, 3) for z in range(3)}


def rows_of(clicks: dict[int, np.ndarray]) -> set[tuple[float, ...]]:
    return {(z, *map(float, click)) for z, of_slice in clicks.items() for click in of_slice}


@pytest.mark.parametrize(
    ("positive", "negative", "held"),
    [(5, 0, (1, 0)), (9, 0, (2, 0)), (10, 0, (3, 0)), (8, 2, (3, 0)), (20, 10, (4, 2)), (1000, 1000, (32, 32))],
)
def test_a_fifth_of_each_kind_is_held_out(positive: int, negative: int, held: tuple[int, int]) -> None:
    """At least three of ten, at most 64."""
    clicks = make_clicks(positive, negative)
    train, held_out = split_clicks(clicks, 0)
    assert rows_of(train) | rows_of(held_out) == rows_of(clicks)
    assert not rows_of(train) & rows_of(held_out)
    labels = [row[3] for row in rows_of(held_out)]
    assert (labels.count(1), labels.count(0)) == held
    assert sum(held) <= MOST


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    clicks = make_clicks(30, 5)
    turned = {z: clicks[z][::-1] for z in reversed(clicks)}
    assert rows_of(split_clicks(clicks, 0)[1]) == rows_of(split_clicks(turned, 0)[1])
    assert rows_of(split_clicks(clicks, 0)[1]) != rows_of(split_clicks(clicks, 1)[1])


def test_slices_without_clicks_stay_annotated() -> None:
    train, held_out = split_clicks({**make_clicks(6, 0), 7: np.zeros((0, 3), np.float32)}, 0)
    assert set(train) == {0, 1, 2, 7}
    assert 7 not in held_out


class Painted:
    """A network whose prediction is painted: one for windows without, one for windows with a prompt."""

    device = torch.device("cpu")
    window = {"batch_size": 2}  # noqa: RUF012

    def __init__(self, automatic: list[str], clicked: list[str]) -> None:
        self.pictures = {0: picture(automatic), 1: picture(clicked)}

    def predict_windows(self, windows: torch.Tensor, points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        assert points.shape == (len(windows), 1, valid.shape[2], 3)
        return self.pictures[valid.shape[2]].expand(len(windows), 1, -1, -1)


def picture(rows: list[str]) -> torch.Tensor:
    """# surely foreground, + rather foreground, - rather background, . surely background."""
    return torch.tensor([[{"#": 0.9, "+": 0.6, "-": 0.4, ".": 0.1}[letter] for letter in row] for row in rows])


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> ClickWindows:
    """Two positive clicks and a negative one, in a slice of 6 x 6 pixels that is one window."""
    monkeypatch.setattr(crop_reader, "read_image", lambda *_: np.zeros((6, 6), np.float32))
    clicks = np.array([[0.5, 0.5, 1], [4.5, 4.5, 1], [5.5, 0.5, 0]], np.float32)
    slices: list[dict[str, Any]] = [{"slice": 3, "height": 6, "width": 6}]
    return ClickWindows(slices, {3: clicks}, CropReader(6, 1.0))


START = ["##....", "##....", "......", "......", "....##", "....##"]
NONE = ["......"] * 6


def scored(score: HeldOutScore, automatic: list[str]) -> float:
    return score(Painted(automatic, NONE))  # type: ignore[arg-type]


def test_the_score_by_hand(windows: ClickWindows) -> None:
    """The start finds nothing by itself, so no other object counts, and what it segments when clicked is the truth.

    First object: 2 of 4 pixels, 1/2. Second: all 4, and 2 too many, 4/6: that is the recall. The negative click is on
    background, 1, and counts in the agreement.
    Known are the 4 pixels of each object, in a window of its own; found are 8 in each of the three.
    """
    score = HeldOutScore(windows, Painted(NONE, START), sigma=1.0)  # type: ignore[arg-type]
    found = ["##....", "......", "......", "....##", "....##", "....##"]
    assert scored(score, found) == pytest.approx((1 / 2 + 4 / 6) / 2 * (1 / 2 + 4 / 6 + 1) / 3 * 8 / 24)
    assert scored(score, START) == pytest.approx(8 / 24)


def test_a_network_that_finds_nothing_has_no_score(windows: ClickWindows) -> None:
    """However many negative clicks an empty mask agrees with; nor does a speck of one object score as all of it."""
    for automatic in (NONE, START):
        score = HeldOutScore(windows, Painted(automatic, START), sigma=1.0)  # type: ignore[arg-type]
        assert scored(score, NONE) == 0
        assert scored(score, ["#.....", *NONE[1:]]) < scored(score, START)


def test_other_objects_around_the_clicks_count(windows: ClickWindows) -> None:
    """In the windows of the positive clicks there is one other object each, in that of the negative one both.

    A network that loses the first object loses its click (0 instead of 1), 8 of the 16 pixels of other objects, and
    half of its foreground.
    """
    score = HeldOutScore(windows, Painted(START, START), sigma=1.0)  # type: ignore[arg-type]
    assert [known.num_others for known in score.known] == [1, 1, 2]
    assert scored(score, START) == 1
    one = [*NONE[:4], "....##", "....##"]
    assert scored(score, one) == pytest.approx((0 + 1 + 4 * 8 / 16) / 6 * (0 + 1 + 1 + 4 * 8 / 16) / 7 * 24 / 12)


def test_new_objects_where_surely_was_background_cost(windows: ClickWindows) -> None:
    """Two pixels in each of the three windows: of other objects 16 pixels are right, and 6 too many."""
    score = HeldOutScore(windows, Painted(START, START), sigma=1.0)  # type: ignore[arg-type]
    more = [*START[:4], "#...##", "#...##"]
    assert scored(score, more) == pytest.approx((2 + 4 * 16 / 22) / 6 * (3 + 4 * 16 / 22) / 7 * 24 / 30)


def test_borders_that_were_in_doubt_may_move_and_masks_that_grow_cost(windows: ClickWindows) -> None:
    """They agree in all that is known, 8 pixels in each window."""
    doubtful = ["##+-..", "##+-..", "++--..", "----++", "..--##", "..--##"]
    score = HeldOutScore(windows, Painted(doubtful, NONE), sigma=1.0)  # type: ignore[arg-type]
    larger = ["####..", "####..", "####..", "......", "....##", "....##"]
    for network, foreground in ((doubtful, 14), (larger, 16), (START, 8)):
        assert scored(score, network) == 8 / foreground


def test_what_a_negative_click_is_on_should_go(windows: ClickWindows) -> None:
    """In its own window the wrong object is none, in the other two its pixels count as those of an object."""
    wrong = ["##...#", "##...#", "......", "......", "....##", "....##"]
    score = HeldOutScore(windows, Painted(wrong, NONE), sigma=1.0)  # type: ignore[arg-type]
    assert [known.num_others for known in score.known] == [2, 2, 2]
    known = 4 + 6 + 4 + 6 + 8
    assert scored(score, wrong) == pytest.approx((1 + 1 + 6) / 8 * (1 + 1 + 0 + 6) / 9 * known / 30)
    assert scored(score, START) == pytest.approx((1 + 1 + 6 * 16 / 20) / 8 * (1 + 1 + 1 + 6 * 16 / 20) / 9 * known / 24)


def test_a_mask_that_floods_everything_has_no_score(windows: ClickWindows) -> None:
    everything = ["######"] * 6
    for clicked in (START, NONE, everything):
        score = HeldOutScore(windows, Painted(NONE, clicked), sigma=1.0)  # type: ignore[arg-type]
        assert score(Painted(everything, everything)) == 0  # type: ignore[arg-type]


def test_a_disc_takes_the_place_of_an_object_that_does_not_follow_the_click() -> None:
    """Radius 1 around the middle of a pixel: it and its four neighbors."""
    disc, _ = object_at(np.zeros((5, 5)), np.zeros((5, 5)), np.array([2.5, 1.5, 1]), 1.0)
    assert np.argwhere(disc).tolist() == [[0, 2], [1, 1], [1, 2], [1, 3], [2, 2]]


def test_windows_are_moved_into_the_slice() -> None:
    size = {"height": 10, "width": 6}
    assert box_around(np.array([5.9, 5.0]), 4, size) == (3, 2, 7, 6)
    assert box_around(np.array([0.0, 0.0]), 8, size) == (0, 0, 8, 6)
