"""A click changes the object that it is on, and nothing else."""

from __future__ import annotations

from prompt_das.ops.click_reach import keep_corrected_objects, limit_to_clicked_objects

import numpy as np


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


AUTOMATIC = row(0.1, 0.9, 0.9, 0.1, 0.2, 0.1, 0.1, 0.8)
PROMPTED = row(0.1, 0.2, 0.3, 0.1, 0.9, 0.7, 0.1, 0.3)


def clicks(*columns: int) -> np.ndarray:
    return np.array([[column + 0.5, 0.5, 1] for column in columns], np.float32).reshape(-1, 3)


def test_no_click_changes_nothing() -> None:
    assert np.array_equal(limit_to_clicked_objects(AUTOMATIC, PROMPTED, clicks()), AUTOMATIC)


def test_an_object_that_appears_is_taken_whole_and_alone() -> None:
    expected = row(0.1, 0.9, 0.9, 0.1, 0.9, 0.7, 0.1, 0.8)
    assert np.array_equal(limit_to_clicked_objects(AUTOMATIC, PROMPTED, clicks(5)), expected)


def test_an_object_that_goes_is_taken_whole_and_alone() -> None:
    expected = row(0.1, 0.2, 0.3, 0.1, 0.2, 0.1, 0.1, 0.8)
    assert np.array_equal(limit_to_clicked_objects(AUTOMATIC, PROMPTED, clicks(1)), expected)


def test_a_click_on_background_that_stays_changes_nothing() -> None:
    assert np.array_equal(limit_to_clicked_objects(AUTOMATIC, PROMPTED, clicks(0, 3)), AUTOMATIC)


def test_several_clicks_change_several_objects() -> None:
    expected = row(0.1, 0.2, 0.3, 0.1, 0.9, 0.7, 0.1, 0.8)
    assert np.array_equal(limit_to_clicked_objects(AUTOMATIC, PROMPTED, clicks(4, 2, 2)), expected)


def test_what_is_not_known_stays_unknown() -> None:
    unknown = np.where(np.arange(8) < 3, np.nan, AUTOMATIC).astype(np.float32)
    result = limit_to_clicked_objects(unknown, np.where(np.isnan(unknown), np.nan, PROMPTED), clicks(5))
    assert np.array_equal(np.isnan(result), np.isnan(unknown))


AVERAGED = row(0.1, 0.9, 0.8, 0.1, 0.4, 0.2, 0.1, 0.3)  # the neighbors want neither the object at 4 nor the one at 7


def test_an_object_that_the_network_misses_and_a_click_adds_is_that_of_its_slice() -> None:
    expected = row(0.1, 0.9, 0.8, 0.1, 0.9, 0.7, 0.1, 0.3)
    assert np.array_equal(keep_corrected_objects(AVERAGED, PROMPTED, AUTOMATIC, clicks(4)), expected)


def test_an_object_that_a_click_confirms_does_not_go_with_the_average() -> None:
    confirmed = AUTOMATIC.copy()
    expected = row(0.1, 0.9, 0.8, 0.1, 0.4, 0.2, 0.1, 0.8)
    assert np.array_equal(keep_corrected_objects(AVERAGED, confirmed, AUTOMATIC, clicks(7)), expected)


def test_an_object_that_a_click_removes_does_not_come_back_with_the_average() -> None:
    negative = np.array([[1.5, 0.5, 0]], np.float32)
    expected = row(0.1, 0.2, 0.3, 0.1, 0.4, 0.2, 0.1, 0.3)
    assert np.array_equal(keep_corrected_objects(AVERAGED, PROMPTED, AUTOMATIC, negative), expected)


def test_a_click_that_corrects_nothing_leaves_the_average() -> None:
    confirming = np.array([[2.5, 0.5, 1], [6.5, 0.5, 0]], np.float32)
    assert np.array_equal(keep_corrected_objects(AVERAGED, AUTOMATIC, AUTOMATIC, confirming), AVERAGED)
    assert np.array_equal(keep_corrected_objects(AVERAGED, PROMPTED, AUTOMATIC, clicks()), AVERAGED)
