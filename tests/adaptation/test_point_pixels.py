"""Points as pixels of maps."""

from __future__ import annotations

from prompt_das.adaptation.point_pixels import point_to_index, sparse_recall, warp_points

import pytest
import torch


def test_the_pixel_of_a_point_by_hand() -> None:
    """An image of 2 x 3 pixels; beyond the right and the lower border the pixel is the last one."""
    points = torch.tensor([[[0.5, 0.5], [2.9, 1.0], [3.0, 0.2], [-1.0, 7.0]]])
    assert point_to_index(points, 2, 3).tolist() == [[0, 5, 2, 3]]


def test_a_point_goes_where_the_map_sends_its_pixel() -> None:
    """An image of 1 x 2 pixels that is mirrored."""
    forward_map = torch.tensor([[[[1.5, 0.5], [0.5, 0.5]]]])
    assert warp_points(torch.tensor([[[0.2, 0.5], [1.7, 0.5]]]), forward_map).tolist() == [[[1.5, 0.5], [0.5, 0.5]]]


def test_recall_on_sparse_points_by_hand() -> None:
    """Two of three points lie where the probability is above 0.5; padding does not count."""
    probability = torch.zeros(1, 4, 6)
    probability[0, 1, 2:4] = 0.9
    points = torch.tensor([[[2.5, 1.5], [3.9, 1.1], [0.5, 0.5], [2.5, 1.5]]])
    valid = torch.tensor([[True, True, True, False]])
    assert sparse_recall(probability, points, valid) == pytest.approx(2 / 3)
    assert sparse_recall(probability, points[:, :0], valid[:, :0]).isnan()
