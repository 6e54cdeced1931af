"""The threshold of pseudo points follows from the density at clicks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prompt_das.adaptation.density_threshold import LOWEST, density_at_clicks, threshold_of

import numpy as np
import pytest
import torch
from torch import Tensor


class Network:
    """Sees density 0.3 at (10, 12), 0.8 at (25, 5), nothing elsewhere."""

    device = torch.device("cpu")
    window = {"batch_size": 2}  # noqa: RUF012

    def predict_windows_and_density(self, images: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        assert points.shape == (len(images), 1, 0, 3)
        maps = torch.zeros(len(images), 2, 32, 32)
        maps[:, 0] = 0.9  # the probability does not count
        maps[:, 1, 12, 10], maps[:, 1, 5, 25] = 0.3, 0.8
        return maps


def windows(*clicks: tuple[float, float, int]) -> Any:
    array = np.array(clicks, np.float32).reshape(-1, 3)

    class Windows(SimpleNamespace):
        def __len__(self) -> int:
            return len(array)

    return Windows(images=torch.zeros(len(array), 1, 32, 32), clicks=array)


def test_the_highest_density_near_each_positive_click_counts() -> None:
    found = density_at_clicks(
        Network(), windows((11.5, 12.5, 1), (25.5, 5.5, 1), (25.5, 5.5, 0), (2.5, 30.5, 1)), sigma=2.0
    )
    np.testing.assert_allclose(found, [0.3, 0.8, 0.0], atol=1e-6)


def test_the_threshold_is_sixty_percent_of_the_median_and_never_above_the_network_s_own() -> None:
    assert threshold_of(np.array([0.1, 0.3, 0.9]), 0.4) == pytest.approx(0.18)
    assert threshold_of(np.array([0.9, 0.9]), 0.4) == 0.4
    assert threshold_of(np.array([0.0, 0.0]), 0.4) == LOWEST
    assert threshold_of(np.zeros(0), 0.4) == 0.4
