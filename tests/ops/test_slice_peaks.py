"""Peaks of a slice: those of ``find_peaks``, on whatever density."""

from __future__ import annotations

from prompt_das.ops.points import find_peaks
from prompt_das.ops.slice_peaks import find_slice_peaks

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    levels=st.sampled_from([2, 5, 1000]),  # few: plateaus
    kernel=st.sampled_from([1, 3, 5, 9]),
    threshold=st.sampled_from([-1.0, 0.0, 0.4, 2.0]),
    top_k=st.sampled_from([1, 5, 600]),
)
def test_the_same_peaks_as_on_a_batch(
    seed: int, shape: tuple[int, int], levels: int, kernel: int, threshold: float, top_k: int
) -> None:
    density = (np.random.default_rng(seed).integers(0, levels, shape) / levels).astype(np.float32)
    points, valid, scores = find_peaks(torch.from_numpy(density)[None], threshold, kernel, top_k)
    found, heights = find_slice_peaks(density, threshold, kernel, top_k)
    np.testing.assert_array_equal(found, points[valid].numpy())
    np.testing.assert_array_equal(heights, scores[valid].numpy())


def test_there_is_no_peak_beside_unknown_pixels() -> None:
    density = np.zeros((9, 20), np.float32)
    density[4, 4] = density[4, 14] = 1
    density[4, 6] = np.nan
    points, _ = find_slice_peaks(density)
    np.testing.assert_array_equal(points, [[14.5, 4.5]])


def test_an_even_kernel_means_nothing() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        find_slice_peaks(np.zeros((4, 4)), kernel=4)
