"""What the predictor computes again and what it keeps: the answer depends on nothing that came before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.resize import Box

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predictor_harness import (
    HEIGHT,
    IMAGE,
    NONE,
    POINTS,
    WIDTH,
    Calls,
    Make,
    by_the_network,
    cut,
    gray,
    make_again,
    tiny_predictor,
)

# ---- what it does, and does not do, again

# Windows begin at rows 0, 20, 38 and at columns 0, 20, 28, and are 32 px wide.


def test_a_click_decodes_the_windows_that_it_lies_in(predictor: Predictor, calls: Calls) -> None:
    predictor.predict(NONE)
    assert calls.take() == (9, 9)
    predictor.predict([[5.5, 5.5]])  # in the corner: only in the first window
    assert calls.take() == (0, 1)
    predictor.predict([[5.5, 5.5], [30.5, 25.5]])  # rows from 0 and 20, all columns
    assert calls.take() == (0, 6)
    predictor.predict([[5.5, 5.6], [30.5, 25.5]])  # moved by a hair
    assert calls.take() == (0, 1)


def test_windows_are_encoded_in_batches_of_one_size_and_decoded_alone_where_clicks_are(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = make("TEST.WINDOW.BATCH_SIZE", "4")
    calls = Calls(predictor, monkeypatch)
    predictor.predict(NONE, image=IMAGE)  # nine windows: 4 + 4 + 1
    assert calls.take() == (12, 3)
    predictor.predict([[30.5, 25.5]], image=IMAGE)
    assert calls.take() == (0, 6)
    predictor.predict([[30.5, 25.5]], image=gray(1))  # six windows with the click, three without: 4 + 2 and 3
    assert calls.take() == (12, 7)
    predictor.predict(NONE, image=gray(2, 30, 30))  # a slice of one window
    assert calls.take() == (1, 1)


def test_what_was_decoded_before_is_not_decoded_again(predictor: Predictor, calls: Calls) -> None:
    clicks = [NONE, POINTS[:1], POINTS[:2], POINTS]
    answers = [predictor.predict(points).probability for points in clicks]
    calls.take()
    for points, answer in reversed(list(zip(clicks, answers, strict=True))):  # undo, undo, undo
        assert np.array_equal(predictor.predict(points).probability, answer)
    assert calls.take() == (0, 0)


def test_a_slice_is_there_again_when_one_steps_back(predictor: Predictor, calls: Calls) -> None:
    here = predictor.predict(POINTS, centers=True)
    predictor.predict(NONE, image=gray(1))
    calls.take()
    back = predictor.predict(POINTS, image=IMAGE.copy(), centers=True)
    assert calls.take() == (0, 0)
    assert np.array_equal(back.probability, here.probability)
    assert np.array_equal(back.centers.points, here.centers.points)
    assert back.changed == (0, 0, HEIGHT, WIDTH)


def test_setting_the_same_image_again_changes_nothing(predictor: Predictor) -> None:
    first = predictor.predict(POINTS)
    predictor.set_image(IMAGE.copy())
    second = predictor.predict(POINTS)
    assert second.changed is None
    assert second.probability is first.probability


def other_images() -> Iterator[tuple[str, np.ndarray, tuple[float, float] | None]]:
    yield "one gray value", np.where(np.arange(HEIGHT * WIDTH).reshape(IMAGE.shape) == 4199, IMAGE ^ 1, IMAGE), None
    yield "the same bytes in another shape", IMAGE.reshape(WIDTH, HEIGHT), None
    yield "the same bytes of another type", IMAGE.view(np.int8), (0, 100)
    yield "another range", IMAGE, (0, 100)


@pytest.mark.parametrize(
    ("what", "image", "intensity_range"), list(other_images()), ids=lambda x: x if type(x) is str else ""
)
def test_images_are_not_confused(
    predictor: Predictor, calls: Calls, what: str, image: np.ndarray, intensity_range: tuple[float, float] | None
) -> None:
    predictor.predict(NONE)
    calls.take()
    answer = predictor.predict(NONE, image=image, intensity_range=intensity_range)
    assert calls.take() == (9, 9)
    expected = make_again(predictor).predict(NONE, image=image, intensity_range=intensity_range)
    assert np.array_equal(answer.probability, expected.probability)


def test_sixteen_bits_and_gray_in_color_show_the_same(predictor: Predictor) -> None:
    expected = predictor.predict(POINTS).probability
    sixteen = IMAGE.astype(np.uint16) * 257
    for image, intensity_range in ((sixteen, (0, 65535)), (np.repeat(IMAGE[..., None], 3, -1), None)):
        answer = predictor.predict(POINTS, image=image, intensity_range=intensity_range)
        np.testing.assert_allclose(answer.probability, expected, atol=1e-5)


def test_an_image_may_be_changed_after_it_was_set(predictor: Predictor) -> None:
    image = IMAGE.copy()
    predictor.set_image(image)
    image[:] = 0
    assert np.array_equal(predictor.predict(NONE).probability, make_again(predictor).predict(NONE).probability)


@pytest.mark.parametrize("cache_bytes", [0, 10_000, 40_000, 200_000])
def test_memory_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch, cache_bytes: int) -> None:
    """An embedding has 2 KiB and a prediction 4 KiB: a slice has 9 of each."""
    predictor = make(cache_bytes=cache_bytes)
    calls, answers = Calls(predictor, monkeypatch), []
    for seed in (0, 1, 0):
        for points in (NONE, POINTS):
            answers.append(predictor.predict(points, image=gray(seed)).probability)
            assert predictor.cache.nbytes <= cache_bytes
    assert all(map(np.array_equal, answers[:2], answers[4:]))
    assert (calls.encoded == 18) == (cache_bytes == 200_000)  # only then no window is encoded twice
    if cache_bytes:
        assert predictor.cache.nbytes > cache_bytes / 2


def test_the_least_recently_used_slice_is_evicted_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make(cache_bytes=111_000)  # two slices of 54 KiB
    calls = Calls(predictor, monkeypatch)
    for seed, encoded in ((0, 9), (1, 9), (0, 0), (2, 9), (0, 0), (1, 9)):
        predictor.predict(NONE, image=gray(seed))
        assert calls.take()[0] == encoded


# ---- whatever comes before


@cache
def from_scratch(predictor: Predictor, seed: int, points: tuple[tuple[float, float], ...]) -> np.ndarray:
    fresh = Predictor.from_model(predictor.cfg, predictor._model, cache_bytes=1 << 20)
    return fresh.predict(np.array(points, np.float32), image=gray(seed)).probability


coordinates = st.tuples(st.integers(0, 2 * WIDTH - 1), st.integers(0, 2 * HEIGHT - 1)).map(
    lambda p: (p[0] / 2, p[1] / 2)
)
regions = st.one_of(
    st.none(),
    st.tuples(st.integers(-10, HEIGHT), st.integers(-10, WIDTH), st.integers(1, 40), st.integers(1, 40)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
)
operations = st.one_of(
    st.tuples(st.just("add"), coordinates),
    st.tuples(st.just("move"), st.integers(0, 9), coordinates),
    st.tuples(st.just("remove"), st.integers(0, 9)),
    st.tuples(st.just("shuffle"), st.randoms(use_true_random=False)),
    st.tuples(st.just("slice"), st.integers(0, 2)),
)


@pytest.mark.parametrize("examples", [12, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("scale", "batch_size"), [("1.0", "4"), ("0.6", "1")])
def test_a_result_depends_on_the_points_and_not_on_calls_before_it(
    tiny: list[str], scale: str, batch_size: str, examples: int
) -> None:
    """Any sequence of clicks, steps to other slices and views: bit by bit as if it were the first call.

    And the box that is said to have changed holds all that did.
    """
    origin = tiny_predictor(tiny, "INPUT.SCALE", scale, "TEST.WINDOW.BATCH_SIZE", batch_size)

    @settings(max_examples=examples)
    @given(st.lists(st.tuples(operations, regions), max_size=8), st.sampled_from([0, 30_000, 1 << 20]))
    def check(steps: list[tuple[tuple[Any, ...], Box | None]], cache_bytes: int) -> None:
        predictor = Predictor.from_model(origin.cfg, origin._model, cache_bytes=cache_bytes)
        points: list[tuple[float, float]] = []
        seed, before = 0, None
        for (what, *about), region in steps:
            if what == "add":
                points.append(about[0])
            elif what == "move" and points:
                points[about[0] % len(points)] = about[1]
            elif what == "remove" and points:
                del points[about[0] % len(points)]
            elif what == "shuffle":
                about[0].shuffle(points)
            elif what == "slice" and about[0] != seed:
                seed, before = about[0], None
            answer = predictor.predict(points, image=gray(seed), region=region)
            expected = from_scratch(origin, seed, tuple(sorted(points)))
            known = ~np.isnan(answer.probability)
            assert np.array_equal(answer.probability[known], expected[known])
            y0, x0, y1, x1 = region or (0, 0, HEIGHT, WIDTH)
            assert known[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].all()
            if before is None:
                before = np.full((HEIGHT, WIDTH), np.nan, np.float32)
            patched = before.copy()
            if answer.changed is not None:
                cut(patched, answer.changed)[:] = cut(answer.probability, answer.changed)
            assert np.array_equal(patched, answer.probability, equal_nan=True)
            before = answer.probability

    check()


def test_two_points_at_one_place_are_two(predictor: Predictor) -> None:
    """As in evaluation, where nobody counts them either."""
    twice = np.repeat(POINTS, 2, axis=0)
    answer = predictor.predict(twice).probability
    np.testing.assert_allclose(answer, by_the_network(predictor, IMAGE, twice), rtol=0, atol=1e-5)


def test_results_do_not_change_later(predictor: Predictor) -> None:
    points = POINTS.copy()
    first = predictor.predict(points)
    kept = first.probability.copy()
    points[:] = 1
    predictor.predict(NONE)
    assert np.array_equal(first.probability, kept)
    assert np.array_equal(first.points, POINTS)
    with pytest.raises(ValueError, match="read-only"):
        first.probability[0, 0] = 0


# ---- a part of a large slice


def test_only_the_windows_of_the_region_are_encoded(predictor: Predictor, calls: Calls) -> None:
    answer = predictor.predict(NONE, region=(2, 3, 12, 15))
    assert calls.take() == (1, 1)
    assert answer.changed == (0, 0, 32, 32)
    assert not np.isnan(answer.probability[:20, :20]).any()  # further right and down, other windows see it as well
    assert np.isnan(answer.probability[20:]).all()
    assert np.isnan(answer.probability[:, 20:]).all()
    predictor.predict(NONE, region=(2.5, 3.2, 12.9, 15))  # of a viewer that is zoomed in
    assert calls.take() == (0, 0)


def test_points_outside_the_region_are_decoded_when_it_reaches_them(predictor: Predictor, calls: Calls) -> None:
    predictor.predict(POINTS, region=(0, 0, 10, 10))
    assert calls.take() == (1, 1)
    whole = predictor.predict(POINTS)
    assert calls.take() == (8, 8)
    assert np.array_equal(whole.probability, make_again(predictor).predict(POINTS).probability)


def test_what_was_predicted_outside_the_region_follows_the_points(predictor: Predictor, calls: Calls) -> None:
    predictor.predict(POINTS)
    calls.take()
    answer = predictor.predict(POINTS[:2], region=(0, 0, 10, 10))  # the last point is far away
    assert np.array_equal(answer.probability, make_again(predictor).predict(POINTS[:2]).probability)


def test_windows_are_encoded_from_the_middle_of_the_region(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    middles = []
    encode = predictor._model.encode
    monkeypatch.setattr(predictor._model, "encode", lambda x: middles.append(position_of(x)) or encode(x))
    predictor.predict(NONE, region=(30, 20, 40, 40))
    distances = [np.hypot(y + 16 - 35, x + 16 - 30) for y, x in middles]
    assert len(distances) == 9
    assert distances == sorted(distances)


def position_of(window: torch.Tensor) -> tuple[int, int]:
    wanted = window[0, 0].numpy()
    for y, x in itertools.product((0, 20, 38), (0, 20, 28)):
        if np.array_equal(IMAGE[y : y + 32, x : x + 32], wanted):
            return y, x
    raise AssertionError("not a window of the slice")
