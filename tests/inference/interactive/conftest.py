"""Fixtures of the predictor's tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from prompt_das.inference.interactive.predictor import Predictor

import pytest
from predictor_harness import IMAGE, Calls, Make, tiny_predictor


@pytest.fixture
def make(tiny: list[str]) -> Make:
    return lambda *opts, **kwargs: tiny_predictor(tiny, *opts, **kwargs)


@pytest.fixture
def predictor(make: Make) -> Predictor:
    predictor = make()
    predictor.set_image(IMAGE)
    return predictor


@pytest.fixture
def calls(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(predictor, monkeypatch)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def following(make: Make, tiny: list[str]) -> Predictor:
    """A network that knows negative clicks."""
    predictor = make("MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder")
    assert predictor.uses_negative_clicks
    predictor.set_image(IMAGE)
    return predictor
