"""A state dict is compared with what a network expects: every difference is named, at once."""

from __future__ import annotations

from prompt_das.checkpoint.state_dict import Expected, expected_of, require_matching_state

import pytest
import torch
from torch import nn

EXPECTED = {"weight": Expected((2, 3)), "count": Expected((), is_floating_point=False)}


def test_what_a_network_has_fits_it() -> None:
    network = nn.BatchNorm1d(3)  # floating point, and an integer: num_batches_tracked
    require_matching_state(network.state_dict(), expected_of(network.state_dict()), "it fits")


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"weight": torch.zeros(2, 3)}, "missing: count"),
        ({"weight": torch.zeros(2, 3), "count": torch.tensor(1), "bias": torch.zeros(2)}, "unexpected: bias"),
        ({"weight": torch.zeros(3, 2), "count": torch.tensor(1)}, r"another shape .*: weight \(3, 2\), \(2, 3\)"),
        ({"weight": torch.zeros(2, 3), "count": torch.tensor(1.0)}, "another type .*: count torch.float32, integer"),
        ({"weight": torch.zeros(3, 2)}, "file.pth: wrong. missing: count; of another shape"),
    ],
)
def test_every_difference_is_named(state: dict[str, torch.Tensor], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        require_matching_state(state, EXPECTED, "file.pth: wrong.")
