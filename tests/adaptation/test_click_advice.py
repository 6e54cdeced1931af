"""Clicks that cannot be meant are refused or warned about, with advice."""

from __future__ import annotations

import logging
from typing import Any

from prompt_das.adaptation import click_advice
from prompt_das.adaptation.click_advice import require_usable, slices_to_click, warn_of_empty_places
from prompt_das.data.crop_reader import CropReader

import numpy as np
import pytest

SHAPE = (20, 50, 100)


def clicks_at(*rows: tuple[float, float, float], label: int = 1) -> dict[int, np.ndarray]:
    """Rows (z, x, y)."""
    return {
        int(z): np.array([[x, y, label] for at, x, y in rows if at == z], np.float32) for z in {z for z, *_ in rows}
    }


def error_of(clicks: dict[int, np.ndarray], slices: range = range(20)) -> str:
    with pytest.raises(ValueError, match=r"clicks\.csv") as error:
        require_usable("clicks.csv", clicks, SHAPE, slices)
    return str(error.value)


def test_enough_clicks_inside_are_fine() -> None:
    require_usable("clicks.csv", clicks_at(*((z, 99.5, 49.5) for z in range(5))), SHAPE, range(20))


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([(z, 40, 60 + z) for z in range(6)], "0 with x and y exchanged: the axes seem exchanged"),
        ([(30 + z, 7, 40) for z in range(6)], "0 with z and x exchanged: the axes seem exchanged"),
        ([(30 + z, 60, 9) for z in range(6)], "0 with z and y exchanged: the axes seem exchanged"),
        ([(z, 400, 600) for z in range(6)], "another volume"),
    ],
)
def test_clicks_outside_name_the_axes_that_explain_them(rows: list[tuple[float, float, float]], advice: str) -> None:
    error = error_of(clicks_at(*rows))
    assert "6 of 6 clicks lie outside of the volume of 20 x 50 x 100" in error
    assert advice in error


def test_negative_clicks_and_those_on_other_slices_do_not_count() -> None:
    clicks = {**clicks_at(*((z, 9, 9) for z in range(5))), **clicks_at((6, 9, 9), (7, 9, 9), label=0)}
    assert "3 positive clicks on these slices" in error_of(clicks, range(2, 20))


def test_the_slices_to_click_are_spread_and_have_no_clicks() -> None:
    """Every third of 5 ... 19, without the ends."""
    clicks = clicks_at(*((z, 9, 9) for z in range(5)))
    assert slices_to_click(clicks, range(20)) == [8, 11, 13, 16]
    assert slices_to_click(clicks, range(3)) == [1]


@pytest.mark.parametrize(
    ("on_objects", "words"),
    [((9, 0), ""), ((1, 8), "The axes seem exchanged"), ((0, 0), "is the scale right?")],
)
def test_most_clicks_on_nothing_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, on_objects: tuple[int, int], words: str
) -> None:
    """First the clicks as they are, then with x and y exchanged."""
    counts = iter(on_objects)
    monkeypatch.setattr(click_advice, "count_on_objects", lambda *_: next(counts))
    slices: list[dict[str, Any]] = [{"slice": 0, "width": 50, "height": 50}]
    clicks = clicks_at(*((0, float(i), 30) for i in range(10)))
    with caplog.at_level(logging.WARNING):
        warn_of_empty_places("clicks.csv", slices, clicks, CropReader(32, 1.0), None)  # type: ignore[arg-type]
    assert bool(caplog.messages) == bool(words)
    assert words in caplog.text
