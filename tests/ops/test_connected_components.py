"""Instances of a mask are its 8-connected components; specks are not instances."""

from __future__ import annotations

from prompt_das.ops.connected_components import connected_components, semantic_to_instances

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def test_diagonal_neighbors_are_connected() -> None:
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]])
    expected = [[1, 0, 0, 0], [0, 1, 0, 2], [0, 0, 0, 2]]
    np.testing.assert_array_equal(connected_components(mask), expected)
    assert connected_components(mask).dtype == np.int32


def test_any_non_zero_value_is_foreground() -> None:
    labels = np.array([[256, 256, 0, 0.5]])  # 256 is 0 as uint8, 0.5 is 0 as an integer
    np.testing.assert_array_equal(connected_components(labels), [[1, 1, 0, 2]])


@given(masks)
def test_components_are_those_of_scipy_numbered_in_raster_order(mask: np.ndarray) -> None:
    labels = connected_components(mask)
    reference, count = ndimage.label(mask, structure=np.ones((3, 3)))
    pairs = set(zip(labels.ravel().tolist(), reference.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(labels)) == len(np.unique(reference))  # one to one
    _, first = np.unique(labels[labels > 0], return_index=True)
    assert labels.max(initial=0) == count
    assert (np.diff(first) > 0).all()


@given(masks, st.integers(0, 6))
def test_semantic_to_instances_keeps_what_is_larger_than_min_size(mask: np.ndarray, min_size: int) -> None:
    everything = connected_components(mask)
    sizes = np.bincount(everything.ravel())
    labels = semantic_to_instances(mask, min_size)
    np.testing.assert_array_equal(labels > 0, mask & (sizes[everything] > min_size))
    np.testing.assert_array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))
    np.testing.assert_array_equal(labels, connected_components(labels))
    assert labels.dtype == np.int32


def test_default_removes_15_pixels_and_keeps_16() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0:3, 0:5] = True
    mask[5:9, 5:9] = True
    labels = semantic_to_instances(mask)
    assert labels[0, 0] == 0
    assert (labels[5:9, 5:9] == 1).all()


def test_an_empty_mask_is_legal() -> None:
    assert connected_components(np.zeros((0, 5), bool)).shape == (0, 5)
    assert not semantic_to_instances(np.zeros((3, 4), bool)).any()


def test_volumes_are_refused_by_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        connected_components(np.zeros((2, 3, 4)))
