"""From lists of dicts to batches."""

from __future__ import annotations

from prompt_das.ops.batching import pad, stack, valid_points

import numpy as np
import pytest
import torch

CPU = torch.device("cpu")


def test_arrays_and_tensors_are_stacked() -> None:
    batch = stack([{"mask": np.eye(2, dtype=np.uint8)}, {"mask": torch.zeros(2, 2, dtype=torch.uint8)}], "mask", CPU)
    assert batch.tolist() == [[[1, 0], [0, 1]], [[0, 0], [0, 0]]]
    assert batch.dtype == torch.uint8


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_padding_is_marked_for_each_input(order: list[int]) -> None:
    inputs = [
        {"points": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)},
        {
            "points": torch.tensor([[5.0, 6.0], [7.0, 8.0], [9.0, 9.0]]),
            "points_valid": torch.tensor([True, False, True]),
        },
        {"points": np.zeros((0, 2), np.float32)},
    ]
    points, valid = pad([inputs[i] for i in order], "points", CPU)
    assert points.shape == (3, 3, 2)
    expected = [[True, True, False], [True, False, True], [False, False, False]]
    assert valid.tolist() == [expected[i] for i in order]
    assert points[order.index(0), :2].tolist() == [[1, 2], [3, 4]]
    assert valid_points(inputs[1], "points").tolist() == [[5, 6], [9, 9]]
    assert valid_points(inputs[2], "points").shape == (0, 2)
