"""Outlines are put where the objects of a volume have the diameter that the user states."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

from prompt_das.adaptation import outline_fit
from prompt_das.adaptation.outline_fit import ENOUGH_OBJECTS, fit_outline, logit_of_diameter, probability_of_logit

import numpy as np
import pytest

SIZE = 32


def cone(radius: float, *, at: float = SIZE / 2, steepness: float = 1.0) -> np.ndarray:
    """(S, S) probability of a round object: 0.5 at its ``radius``, with a logit that falls by ``steepness`` a pixel."""
    rows, columns = np.ogrid[:SIZE, :SIZE]
    distance = np.hypot(columns + 0.5 - at, rows + 0.5 - SIZE / 2)
    return 1 / (1 + np.exp(-steepness * (radius - distance)))


@pytest.mark.parametrize("smaller", [0.0, 1.0, 2.0])
def test_the_chosen_outlines_have_the_stated_diameter(smaller: float) -> None:
    """Objects of radius 8 whose logit falls by one in a pixel: an outline one pixel further inside is a logit of 1."""
    maps = [cone(8.0)] * ENOUGH_OBJECTS
    logit, number = logit_of_diameter(maps, 2 * (8.0 - smaller))
    assert logit == pytest.approx(smaller, abs=0.25)
    assert number == ENOUGH_OBJECTS


def test_the_median_counts_and_a_few_floods_do_not() -> None:
    maps = [cone(6.0)] * 6 + [cone(12.0)] * 3
    assert logit_of_diameter(maps, 12.0)[0] == pytest.approx(0, abs=0.25)


@pytest.mark.parametrize(
    "useless",
    [cone(8.0, at=4.0), 0.9 * cone(8.0), np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE))],
    ids=["cut by the border", "nowhere sure", "empty", "flooded"],
)
def test_objects_that_are_cut_or_doubtful_do_not_count(useless: np.ndarray) -> None:
    """They would be of half their size, or of any."""
    maps = [cone(8.0)] * ENOUGH_OBJECTS
    assert logit_of_diameter([*maps, *[useless] * 20], 12.0) == logit_of_diameter(maps, 12.0)


def test_four_objects_are_no_typical_ones() -> None:
    assert logit_of_diameter([cone(8.0)] * (ENOUGH_OBJECTS - 1), 12.0) == (None, ENOUGH_OBJECTS - 1)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the network predicts in each window, and where they are."""
    seen: dict[str, Any] = {"map": cone(8.0)}

    class Windows:
        def __init__(self, slices: Any, clicks: dict[int, np.ndarray], crop: Any) -> None:
            seen["clicks"] = clicks

        def __len__(self) -> int:
            return sum(map(len, seen["clicks"].values()))

        def predict(self, model: Any) -> list[np.ndarray]:
            return [seen["map"]] * len(self)

    monkeypatch.setattr(outline_fit, "ClickWindows", Windows)
    return seen


SLICES = [{"slice": z, "height": 40, "width": 60} for z in (3, 4)]
CLICKS = {3: np.array([[5, 5, 1], [9, 9, 0]]), 4: np.array([[6 + i, 6, 1] for i in range(200)])}
CROP = SimpleNamespace(scale=0.5)


def test_outlines_are_looked_for_at_positive_clicks_and_found_again(windows: dict[str, Any]) -> None:
    """24 pixels of the image are 12 of the network: two inside of where it draws, on top of what it has already."""
    probability = fit_outline(SimpleNamespace(outline_logit=0.5), SLICES, CLICKS, CROP, 24.0)
    assert math.log(probability / (1 - probability)) == pytest.approx(2.5, abs=0.25)
    places = np.concatenate(list(windows["clicks"].values()))
    assert len(places) == outline_fit.MOST_WINDOWS
    assert (places[:, 2] == 1).all()


def test_what_the_network_is_sure_of_does_not_depend_on_where_its_outlines_lie(windows: dict[str, Any]) -> None:
    """A probability of 0.96 is one of 0.80 where outlines lie at 0.87, and the same object."""
    outlines = []
    for moved in (0.0, 1.9):
        windows["map"] = cone(4.0 - moved)
        outlines.append(fit_outline(SimpleNamespace(outline_logit=moved), SLICES, CLICKS, CROP, 12.0))
    assert windows["map"].max() < outline_fit.SURE
    assert outlines[0] > 0.6
    assert outlines[1] == pytest.approx(outlines[0], abs=0.06)
    windows["map"] = cone(3.0)
    assert windows["map"].max() < outline_fit.SURE
    assert fit_outline(SimpleNamespace(outline_logit=0.0), SLICES, CLICKS, CROP, 12.0) == 0.5  # sure of nothing


def test_without_clicks_any_place_will_do(windows: dict[str, Any]) -> None:
    fit_outline(SimpleNamespace(outline_logit=0.0), SLICES, {}, CROP, 24.0)
    assert windows["clicks"].keys() == {3, 4}
    places = np.concatenate(list(windows["clicks"].values()))
    assert len(places) == outline_fit.MOST_WINDOWS
    assert (places[:, :2] < (60, 40)).all()


def test_few_clicks_are_joined_by_other_places(windows: dict[str, Any]) -> None:
    fit_outline(SimpleNamespace(outline_logit=0.0), SLICES, {3: CLICKS[3]}, CROP, 24.0)
    places = windows["clicks"]
    assert sum(map(len, places.values())) == outline_fit.MOST_WINDOWS
    assert [5, 5, 1] in places[3].tolist()
    assert [9, 9, 0] not in places[3].tolist()


def test_a_network_that_finds_nothing_keeps_its_outlines_and_says_so(
    windows: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    windows["map"] = np.zeros((SIZE, SIZE))
    caplog.set_level(logging.WARNING)
    assert fit_outline(SimpleNamespace(outline_logit=1.0), SLICES, CLICKS, CROP, 24.0) == probability_of_logit(1.0)
    assert "sure of 0 whole objects" in caplog.text
