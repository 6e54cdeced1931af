"""Averages of neighboring slices."""

from __future__ import annotations

from prompt_das.ops.depth_average import MOST, average_log_odds, depth_weights, to_log_odds

import numpy as np
import pytest
import torch


def test_weights_are_a_gaussian_up_to_two_standard_deviations() -> None:
    np.testing.assert_allclose(depth_weights(25.0, 25.0), np.exp([0.0, -0.5, -2.0]))
    np.testing.assert_allclose(depth_weights(25.0, 30.0), np.exp([0.0, -0.72]))


@pytest.mark.parametrize(("sigma", "distance"), [(0.0, 8.0), (25.0, 50.1)])
def test_slices_that_are_far_apart_are_alone(sigma: float, distance: float) -> None:
    assert depth_weights(sigma, distance).tolist() == [1.0]


def test_the_number_of_neighbors_is_bounded() -> None:
    assert len(depth_weights(25.0, 0.1)) == MOST + 1


def test_log_odds_are_averaged() -> None:
    """0.9 and 0.1 cancel out; ln 9 and 0, weighted 2 : 1, are 2/3 ln 9, the logarithm of 4.327."""
    maps = [to_log_odds(torch.tensor([[0.9, 0.9]])), to_log_odds(torch.tensor([[0.1, 0.5]]))]
    torch.testing.assert_close(average_log_odds(maps, [1.0, 1.0])[0, 0], torch.tensor(0.5))
    expected = torch.tensor(4.3267 / 5.3267)
    torch.testing.assert_close(average_log_odds(maps, [1.0, 0.5])[0, 1], expected, atol=2e-4, rtol=0)


def test_a_slice_alone_stays_as_it_is() -> None:
    probability = torch.rand(5, 7)
    torch.testing.assert_close(average_log_odds([to_log_odds(probability)], [1.0]), probability, atol=3e-4, rtol=0)


def test_a_certain_slice_does_not_outweigh_all_others() -> None:
    """A probability of 1 counts as 0.9999, log-odds of 9.2: ten doubts of 0.2 (-1.4 each) are more."""
    maps = [to_log_odds(torch.tensor([[one]])) for one in (1.0, *[0.2] * 10)]
    assert average_log_odds(maps, [1.0] * 11).item() < 0.5
