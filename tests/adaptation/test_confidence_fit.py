"""How sure the teacher has to be follows from the objects that were clicked."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

from prompt_das.adaptation import confidence_fit
from prompt_das.adaptation.confidence_fit import ENOUGH_OBJECTS, LEAST, fit_confidence, usual_confidence

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
