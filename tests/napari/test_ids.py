"""An instance keeps its id, and with it its color, from answer to answer."""

from __future__ import annotations

from prompt_das.napari.ids import keep_ids

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def ids(*rows: str) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in rows])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("0550", "1110", "5550"),  # grown
        ("3333", "1222", "4333"),  # split: the larger part keeps the id
        ("3302", "1111", "3333"),  # merged: the larger part gives its id
        ("0000", "1022", "1022"),  # new
        ("3322", "0000", "0000"),  # gone
        ("9000", "0010", "00:0"),  # 10: the id of what is gone is not used again
    ],
)
def test_examples(before: str, after: str, expected: str) -> None:
    assert keep_ids(ids(before), ids(after)).tolist() == [[ord(c) - ord("0") for c in expected]]


maps = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


@given(maps, maps)
def test_only_the_names_change(before: np.ndarray, after: np.ndarray) -> None:
    renamed = keep_ids(before, after)
    pairs = set(zip(after.ravel().tolist(), renamed.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(after)) == len(np.unique(renamed))
    assert ((renamed == 0) == (after == 0)).all()
    assert renamed.dtype == after.dtype


@given(maps)
def test_nothing_changes_where_nothing_changed(labels: np.ndarray) -> None:
    assert np.array_equal(keep_ids(labels, labels), labels)
    assert np.array_equal(keep_ids(np.where(labels, labels + 5, 0), labels), np.where(labels, labels + 5, 0))
