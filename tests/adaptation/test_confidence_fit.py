"""How sure the teacher has to be follows from the objects that were clicked, and of the result from their number."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

from prompt_das.adaptation import confidence_fit
from prompt_das.adaptation.confidence_fit import (
    ENOUGH_OBJECTS,
    LEAST,
    CarriedConfidence,
    confidence_of_number,
    fit_confidence,
    usual_confidence,
)
from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.volumes.volume import VolumeError

import numpy as np
import pytest

MOST = 0.985


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        ([0.999] * 20, MOST),
        ([0.6] * 2 + [0.95] * 18, 0.95),
        ([0.6] * 20, LEAST),
        ([0.0] * 80 + [0.6] * 2 + [0.95] * 18, 0.95),
        ([0.95] * (ENOUGH_OBJECTS - 1), MOST),
        ([], MOST),
    ],
    ids=["sure", "most are", "hardly ever", "missed ones do not count", "too few", "none"],
)
def test_most_objects_reach_it(highest: list[float], expected: float) -> None:
    assert usual_confidence(np.array(highest), MOST) == expected


def test_weights_that_let_everything_in_go_on_doing_so() -> None:
    assert usual_confidence(np.full(ENOUGH_OBJECTS, 0.6), 0.0) == 0.0


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A window for each click, with an object of the given probability in its left half; and the clicks looked at."""
    seen: dict[str, Any] = {"probability": 0.9}

    class Windows:
        def __init__(self, slices: Any, clicks: dict[int, np.ndarray], crop: Any) -> None:
            self.clicks = seen["clicks"] = np.concatenate(list(clicks.values()))

        def __len__(self) -> int:
            return len(self.clicks)

        def predict(self, model: Any) -> list[np.ndarray]:
            one = np.zeros((8, 8), np.float32)
            one[:, :4] = seen["probability"]
            return [one] * len(self)

    monkeypatch.setattr(confidence_fit, "ClickWindows", Windows)
    return seen


def clicks_at(x: float, number: int, label: int = 1) -> np.ndarray:
    return np.array([[x, 3.0, label]] * number, np.float32)


@pytest.mark.parametrize("outline", [0.3, 0.5, 0.6])
def test_it_is_the_probability_of_the_network_itself(
    windows: dict[str, Any], caplog: pytest.LogCaptureFixture, outline: float
) -> None:
    """Where outlines are moved, so is what a window shows."""
    model = SimpleNamespace(outline_logit=math.log(outline / (1 - outline)))
    own = 0.95
    windows["probability"] = 1 / (1 + math.exp(model.outline_logit - math.log(own / (1 - own))))
    with caplog.at_level(logging.INFO):
        found = fit_confidence(model, [], {2: clicks_at(1.0, ENOUGH_OBJECTS), 5: clicks_at(6.0, 30)}, None, MOST)  # type: ignore[arg-type]
    assert found == pytest.approx(own, abs=1e-3)
    assert "0.950" in caplog.text


def test_some_positive_clicks_of_all_slices_are_looked_at(windows: dict[str, Any]) -> None:
    model = SimpleNamespace(outline_logit=0.0)
    fit_confidence(model, [], {2: clicks_at(1.0, 500), 5: clicks_at(6.0, 500), 6: clicks_at(7.0, 50, 0)}, None, MOST)  # type: ignore[arg-type]
    looked_at = windows["clicks"]
    assert len(looked_at) == confidence_fit.MOST_CLICKS
    assert (looked_at[:, 2] == 1).all()
    assert (looked_at[:, 0] == 1.0).sum() == (looked_at[:, 0] == 6.0).sum()


@pytest.mark.parametrize(
    ("highest", "number", "expected"),
    [
        ([0.999, 0.99, 0.97, 0.95], 1, MOST),
        ([0.999, 0.99, 0.97, 0.95], 3, 0.97),
        ([0.97, 0.999, 0.95, 0.99], 3, 0.97),
        ([0.999, 0.9709], 2, 0.97),
        ([0.999, 0.99, 0.5], 3, LEAST),
        ([0.999], 3, LEAST),
        ([], 3, LEAST),
        ([0.95], 0, MOST),
    ],
    ids=["more", "fewer", "in any order", "rounded down", "hardly ever", "too few", "none", "none before"],
)
def test_as_many_objects_are_left_as_before(highest: list[float], number: int, expected: float) -> None:
    assert confidence_of_number(np.array(highest), number, MOST) == expected


def test_a_network_that_lets_everything_in_goes_on_doing_so() -> None:
    assert confidence_of_number(np.array([0.6]), 2, 0.0) == 0.0


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Eight slices; a window of any of them has the objects of which a model is as sure as it says, in rows."""

    class Windows:
        def __init__(self, slices: list[dict[str, Any]], clicks: dict[int, np.ndarray], crop: Any) -> None:
            if slices[0].get("broken"):
                raise VolumeError("cannot be read")
            self.number = len(clicks[slices[0]["slice"]])

        def predict(self, model: Any) -> list[np.ndarray]:
            one = np.zeros((9, 9), np.float32)
            for row, own in enumerate(model.sure):
                one[2 * row, 2:5] = 1 / (1 + math.exp(model.outline_logit - logit(own)))
                one[2 * row, 5] = 0.51
            return [one] * self.number

    monkeypatch.setattr(confidence_fit, "ClickWindows", Windows)
    return [{"slice": z, "image_id": f"slice {z}", "width": 64, "height": 48} for z in range(8)]


def model_of(outline: float, *sure: float) -> Any:
    return SimpleNamespace(outline_logit=logit(outline), sure=sure)


@pytest.mark.parametrize("outline", [0.3, 0.5, 0.6])
@pytest.mark.parametrize(
    ("after", "expected"), [((0.97, 0.96, 0.94, 0.92), 0.96), ((0.999, 0.99, 0.97, 0.96), MOST)], ids=["less", "more"]
)
def test_a_confidence_is_carried_over_to_a_network_that_is_less_sure(
    volume: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    outline: float,
    after: tuple[float, ...],
    expected: float,
) -> None:
    """Two of four objects in each window are left, wherever outlines lie."""
    start = model_of(outline, 0.999, 0.99, 0.98, 0.91)
    carry = CarriedConfidence(start, volume, None, MOST, CorruptSlices(0))  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO):
        assert carry(model_of(outline, *after)) == pytest.approx(expected, abs=1.1e-3)
    assert ("fewer would be left than before" in caplog.text) == (expected < MOST)


def test_slices_that_cannot_be_read_are_skipped_where_that_is_allowed(volume: list[dict[str, Any]]) -> None:
    volume[3]["broken"] = True
    start = model_of(0.5, 0.99)
    carry = CarriedConfidence(start, volume, None, MOST, CorruptSlices(1))  # type: ignore[arg-type]
    assert carry.number == sum(some.number for some in carry.windows) > 0
    with pytest.raises(VolumeError, match="slice 3"):
        CarriedConfidence(start, volume, None, MOST, CorruptSlices(0))  # type: ignore[arg-type]
