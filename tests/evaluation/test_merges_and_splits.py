"""Merges and splits by hand, then against the definition with one mask per instance."""

from __future__ import annotations

from prompt_das.evaluation.merges_and_splits import count_merges_and_splits
from prompt_das.evaluation.metrics import contingency_table

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def row(text: str) -> np.ndarray:
    """Label map drawn as text: '.' is background, digits are ids."""
    return np.array([0 if pixel == "." else int(pixel) for pixel in text])


@pytest.mark.parametrize(
    ("true", "pred", "merges", "merged", "splits", "pieces"),
    [
        ("11.22.33", "11.22.33", 0, 0, 0, 0),
        ("11.22.33", "77777.33", 1, 2, 0, 0),
        ("11.22.33", "77777777", 1, 3, 0, 0),
        ("111111.2", "33.444.2", 0, 0, 1, 2),
        ("11112222", "33334444", 0, 0, 0, 0),
        ("11112222", "33333444", 0, 0, 0, 0),  # a neighbor's edge: a quarter of 2
        ("11112222", "33333344", 0, 0, 0, 0),  # half is not more than half
        ("11112222", "33333334", 1, 2, 0, 0),
        ("11112222", "44433333", 0, 0, 0, 0),
        ("1111.222", "3344.555", 0, 0, 1, 2),
        ("11.22...", "........", 0, 0, 0, 0),
        ("........", "11.22...", 0, 0, 0, 0),
    ],
)
def test_by_hand(true: str, pred: str, merges: int, merged: int, splits: int, pieces: int) -> None:
    found = count_merges_and_splits(contingency_table(row(true), row(pred)))
    assert found == (merges, merged, splits, pieces)


def brute_force(held: np.ndarray, holding: np.ndarray) -> tuple[int, int]:
    numbers = [
        sum(2 * ((holding == j) & (held == i)).sum() > (held == i).sum() for i in np.unique(held[held > 0]))
        for j in np.unique(holding[holding > 0])
    ]
    return sum(n > 1 for n in numbers), sum(n for n in numbers if n > 1)


maps = hnp.arrays(np.int64, (3, 4, 3), elements=st.integers(0, 5))


@settings(max_examples=200)
@given(maps, maps)
def test_equals_the_definition_and_a_merge_is_a_split_the_other_way_round(true: np.ndarray, pred: np.ndarray) -> None:
    found = count_merges_and_splits(contingency_table(true, pred))
    assert (found.merges, found.merged) == brute_force(true, pred)
    assert (found.splits, found.pieces) == brute_force(pred, true)
    assert count_merges_and_splits(contingency_table(pred, true)) == (*found[2:], *found[:2])
