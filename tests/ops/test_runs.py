"""Labels as runs."""

from __future__ import annotations

from collections import Counter

from prompt_das.ops.runs import count_contacts, find_runs, join_runs

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def test_a_run_ends_at_another_label_at_the_background_and_at_the_row() -> None:
    labels = np.array([[[0, 1, 1, 2], [2, 0, 2, 2]], [[0, 0, 0, 0], [3, 3, 3, 3]]])
    runs = find_runs(labels)
    assert runs.label.tolist() == [1, 2, 2, 2, 3]
    assert runs.length.tolist() == [2, 1, 1, 2, 4]
    assert runs.start.tolist() == [1, 3, 4, 6, 12]


def test_runs_of_a_slice_are_those_that_begin_in_it() -> None:
    labels = np.array([[[0, 1, 1, 2], [2, 0, 2, 2]], [[0, 0, 0, 0], [3, 3, 3, 3]]])
    second = find_runs(labels).between(8, 16)
    assert (second.start.tolist(), second.length.tolist(), second.label.tolist()) == ([4], [4], [3])
    joined = join_runs([find_runs(labels[:1]), find_runs(labels[1:]).moved(8)])
    assert all(np.array_equal(*values) for values in zip(joined, find_runs(labels), strict=True))


@given(hnp.arrays(np.int32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 2)))
def test_runs_hold_each_labeled_voxel_once(labels: np.ndarray) -> None:
    runs = find_runs(labels)
    again = np.zeros_like(labels)
    again.ravel()[runs.voxels()] = np.repeat(runs.label, runs.length)
    np.testing.assert_array_equal(again, labels)


@given(hnp.arrays(np.int32, st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 3)))
def test_contacts_are_pairs_of_pixels_at_most_one_pixel_apart(maps: np.ndarray) -> None:
    expected: Counter[tuple[int, int]] = Counter()
    lower, upper = (np.argwhere(one).tolist() for one in maps)
    for y, x in lower:
        near = [(v, u) for v, u in upper if abs(v - y) <= 1 and abs(u - x) <= 1]
        expected.update((int(maps[0, y, x]), int(maps[1, v, u])) for v, u in near)
    contacts = count_contacts(*(find_runs(one[None]) for one in maps), width=maps.shape[-1])
    assert list(zip(*(one.tolist() for one in contacts), strict=True)) == [
        (*key, expected[key]) for key in sorted(expected)
    ]


def test_nothing_has_no_runs() -> None:
    assert len(find_runs(np.zeros((2, 3, 4), np.int32)).label) == 0
