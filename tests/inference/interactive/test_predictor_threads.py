"""Results on the way, and calls from several threads: the newest one wins."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prompt_das.inference.interactive.newest_call import Superseded
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.segmentation import Segmentation

import numpy as np
import pytest
from predictor_harness import HEIGHT, IMAGE, NONE, POINTS, WIDTH, Calls, cut, gray, make_again

# ---- answers on the way


def test_a_stream_grows_to_the_whole_answer(predictor: Predictor) -> None:
    answers = list(predictor.stream(POINTS, interval=0))
    assert [answer.done for answer in answers] == list(range(1, 10))
    assert {answer.total for answer in answers} == {9}
    canvas = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    for answer in answers:  # a viewer that only ever draws the box that changed
        cut(canvas, answer.changed)[:] = cut(answer.probability, answer.changed)
        assert np.array_equal(canvas, answer.probability, equal_nan=True)
    assert np.array_equal(canvas, make_again(predictor).predict(POINTS).probability)
    unknown = [np.isnan(answer.probability).sum() for answer in answers]
    assert unknown == sorted(unknown, reverse=True)


def test_a_click_is_answered_before_anything_is_encoded(predictor: Predictor, calls: Calls) -> None:
    """The view has moved, and on the part that is known there is a new point: that comes first."""
    predictor.predict(NONE, region=(0, 0, 10, 10))
    calls.take()
    answers = predictor.stream([[5.5, 5.5]], interval=60)
    first = next(answers)
    assert calls.take() == (0, 1)
    assert (first.done, first.total) == (1, 9)
    (last,) = answers
    assert calls.take() == (8, 8)
    assert np.array_equal(last.probability, make_again(predictor).predict([[5.5, 5.5]]).probability)


def test_the_mask_does_not_wait_for_the_centers(predictor: Predictor, calls: Calls) -> None:
    mask, centers = predictor.stream(POINTS, centers=True, interval=60)
    assert (mask.done, mask.total, mask.centers) == (9, 18, None)
    assert (centers.done, centers.changed) == (18, None)
    assert centers.centers is not None


def test_progress_counts_windows(predictor: Predictor) -> None:
    seen: list[tuple[int, int]] = []
    predictor.predict(NONE, region=(0, 0, 30, 10), progress=lambda *args: seen.append(args))
    assert seen == [(1, 2), (2, 2)]


def test_what_was_computed_before_an_error_is_kept(predictor: Predictor) -> None:
    def fail(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predictor.predict(POINTS, progress=fail)
    answer = predictor.predict(POINTS)
    assert answer.total == 4
    assert answer.changed == (0, 0, HEIGHT, WIDTH)
    assert np.array_equal(answer.probability, make_again(predictor).predict(POINTS).probability)


# ---- threads


def start_and_stop_in_encode(pool: ThreadPoolExecutor, calls: Calls, predict: Callable[[], Any]) -> Future:
    """A call that is running now: its window in work ends with ``calls.go_on.set()``."""
    calls.in_encode.clear()
    calls.go_on.clear()
    running = pool.submit(predict)
    assert calls.in_encode.wait(30)
    return running


def test_the_newest_call_wins(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor) -> None:
    older = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE))
    newer = pool.submit(predictor.predict, POINTS)
    wait_for(lambda: calls.looking_for_an_embedding == 2)  # both want the same window
    calls.go_on.set()
    assert np.array_equal(newer.result(30).probability, make_again(predictor).predict(POINTS).probability)
    with pytest.raises(Superseded, match="a newer call came"):
        older.result(30)
    assert calls.encoded - 9 == 9  # not even the window in work was encoded twice; 9 are those of make_again


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_click_does_not_wait_for_the_encoder(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor) -> None:
    """A large slice is being encoded; in the part that is there already one goes on clicking."""
    predictor.predict(NONE, region=(0, 0, 10, 10))
    older = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE))
    answer = pool.submit(predictor.predict, [[5.5, 5.5]], region=(0, 0, 10, 10)).result(30)
    assert not older.done()
    expected = make_again(predictor)
    calls.go_on.set()
    assert np.array_equal(
        cut(answer.probability, (0, 0, 20, 20)), cut(expected.predict([[5.5, 5.5]]).probability, (0, 0, 20, 20))
    )
    with pytest.raises(Superseded):
        older.result(30)


def test_a_superseded_call_that_waits_does_not_encode(
    predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor
) -> None:
    """Three calls for three windows, one after the other: the second never gets to work."""
    corners = [(0, 0, 5, 5), (65, 0, 70, 5), (0, 55, 5, 60)]
    first = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE, region=corners[0]))
    second = pool.submit(predictor.predict, NONE, region=corners[1])
    wait_for(lambda: calls.looking_for_an_embedding == 2)
    third = pool.submit(predictor.predict, NONE, region=corners[2])
    wait_for(lambda: calls.looking_for_an_embedding == 3)
    calls.go_on.set()
    third.result(30)
    for overtaken in (first, second):
        with pytest.raises(Superseded):
            overtaken.result(30)
    assert calls.encoded == 2


def meanwhile(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """Make something happen when the next call has begun and not done anything yet."""
    take = predictor._calls.start

    def interrupted() -> int:
        monkeypatch.setattr(predictor._calls, "start", take)
        ticket = take()
        happens()
        return ticket

    monkeypatch.setattr(predictor._calls, "start", interrupted)


def test_of_two_images_the_newer_stays(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(predictor, monkeypatch, lambda: predictor.set_image(gray(2)))
    with pytest.raises(Superseded, match="a newer image"):
        predictor.set_image(gray(1))
    expected = make_again(predictor).predict(NONE, image=gray(2))
    assert np.array_equal(predictor.predict(NONE).probability, expected.probability)


def test_no_result_is_of_the_image_before(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call came while a new image was being set, and was checked against the old one."""
    asked = []
    meanwhile(predictor, monkeypatch, lambda: asked.append(predictor.stream(POINTS)))
    predictor.set_image(gray(1))
    with pytest.raises(Superseded, match="another image was set"):
        next(asked[0])


@pytest.mark.parametrize("newer", ["cancel", "set_image"])
def test_a_call_can_be_stopped(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor, newer: str) -> None:
    older = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE))
    if newer == "cancel":
        predictor.cancel()  # does not wait
    else:
        predictor.set_image(gray(1))
    calls.go_on.set()
    with pytest.raises(Superseded):
        older.result(30)
    assert calls.take() == (1, 1)
    assert not np.isnan(predictor.predict(NONE).probability).any()


def test_a_stream_that_was_left_or_overtaken(predictor: Predictor) -> None:
    left = predictor.stream(NONE, interval=0)
    next(left)
    left.close()
    overtaken = predictor.stream(NONE, interval=0)
    next(overtaken)
    answer = predictor.predict(POINTS)
    with pytest.raises(Superseded):
        next(overtaken)
    assert np.array_equal(answer.probability, make_again(predictor).predict(POINTS).probability)


def test_bad_arguments_supersede_no_other_call(predictor: Predictor) -> None:
    good = predictor.stream(POINTS, interval=0)
    for bad in ({"points": [[-1, 5]]}, {"points": NONE, "region": (5, 5, 5, 9)}, {"points": NONE, "image": [1, 2]}):
        with pytest.raises(ValueError, match=r"point 0|region is|one slice"):
            predictor.predict(**bad)
    assert len(list(good)) == 9


def test_a_stream_is_of_the_image_that_it_was_started_on(predictor: Predictor) -> None:
    waiting = predictor.stream(POINTS)
    predictor.set_image(gray(1))
    with pytest.raises(Superseded):
        next(waiting)


def test_many_threads_at_once(predictor: Predictor, pool: ThreadPoolExecutor) -> None:
    """Each call returns the result for its own image and points, or raises Superseded."""
    questions = [(seed, POINTS[: i % 4]) for i, seed in enumerate([0, 1, 2, 0, 2, 1] * 10)]
    expected = {
        (seed, n): make_again(predictor).predict(POINTS[:n], image=gray(seed)).probability
        for seed in range(3)
        for n in range(4)
    }

    def ask(question: tuple[int, np.ndarray]) -> Segmentation | None:
        seed, points = question
        try:
            return predictor.predict(points, image=gray(seed))
        except Superseded:
            return None

    answers = list(pool.map(ask, questions))
    for (seed, points), answer in zip(questions, answers, strict=True):
        assert answer is None or np.array_equal(answer.probability, expected[seed, len(points)])
    assert any(answer is not None for answer in answers)
    last = predictor.predict(POINTS, image=IMAGE)
    assert np.array_equal(last.probability, expected[0, 3])
