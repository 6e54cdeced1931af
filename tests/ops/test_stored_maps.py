"""Maps as volumes store them."""

from __future__ import annotations

from prompt_das.ops.points import render_density
from prompt_das.ops.slice_peaks import find_slice_peaks
from prompt_das.ops.split_instances import split_at_centers
from prompt_das.ops.stored_maps import as_stored, as_unit, lowest_stored

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(0, 1.01))
def test_the_lowest_stored_value_is_the_first_that_reaches_the_threshold(threshold: float) -> None:
    reached = as_unit(np.arange(256, dtype=np.uint8)) >= threshold
    assert lowest_stored(threshold) == 256 - reached.sum()


def test_a_half_is_stored_below_what_is_above_it() -> None:
    """None of the 256 values lies on both sides of the default threshold."""
    below, above = np.nextafter(np.float32(0.5), [0, 1], dtype=np.float32)
    assert as_stored(torch.tensor([below, 0.5, above])).tolist() == [127, 127, 128]


@given(st.floats(-0.125, 1.125, width=32))
def test_the_nearest_value_is_stored(value: float) -> None:
    stored = as_stored(torch.tensor([value]))
    assert stored.dtype == np.uint8
    assert abs(int(stored[0]) - 255 * min(max(value, 0), 1)) <= 0.5001


def test_floats_stay_as_they_are() -> None:
    values = np.array([0.5, np.nan], np.float32)
    assert as_unit(values) is values


@pytest.mark.parametrize("seed", range(5))
def test_stored_maps_have_the_peaks_and_instances_of_the_same_maps_as_floats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.uniform(0, 64, (1, 12, 2)))
    rendered = render_density(points, torch.ones(1, 12, dtype=torch.bool), (64, 64), sigma=4.0)[0]
    density = np.uint8(255 * rendered.numpy())
    probability = np.uint8(255 * (density > 40) * rng.uniform(0.6, 1, density.shape))
    as_floats = [one.astype(np.float32) / 255 for one in (probability, density)]
    for stored, floats in zip(find_slice_peaks(density), find_slice_peaks(as_floats[1]), strict=True):
        np.testing.assert_array_equal(stored, floats)
    labels, parent = split_at_centers(probability, density)
    assert len(parent) > len(np.unique(parent))  # something was split
    for stored, floats in zip((labels, parent), split_at_centers(*as_floats), strict=True):
        np.testing.assert_array_equal(stored, floats)
