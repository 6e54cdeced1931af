"""Predictions of neighboring slices, averaged: what the network sees in one slice alone counts less.

Errors of one slice, as an oblique membrane, are seldom there in the next one; mitochondria are. Their log-odds are
averaged rather than their probabilities, so that a neighbor that is sure counts for more than one that doubts.

Shape legend: H, W pixels of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

REACH = 2.0  # in standard deviations; slices beyond do not count
MOST = 16  # neighbors on either side, which bounds memory: slices of 3 nm and a standard deviation of 25 have as many
_SUREST = 1e-4  # a probability of 0 or 1 would outweigh all others


def depth_weights(sigma: float, distance: float) -> np.ndarray:
    """Gaussian weights (n + 1,) of a slice itself, of the next one, ... of the n-th, relative to its own.

    Args:
        sigma: standard deviation, in the unit of ``distance``; 0: a slice is alone.
        distance: from one slice to the next.
    """
    count = min(int(REACH * sigma / distance), MOST)
    return np.exp(-0.5 * (np.arange(count + 1) * distance / sigma) ** 2) if count else np.ones(1)


def to_log_odds(probability: Tensor) -> Tensor:
    """A probability (H, W) -> its log-odds in half precision: many slices may have to be held."""
    return torch.logit(probability, eps=_SUREST).half()


def average_log_odds(log_odds: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log-odds (H, W) of a slice and its neighbors, and their weights -> the probability (H, W) of the average."""
    total = torch.zeros_like(log_odds[0], dtype=torch.float32)
    for one, weight in zip(log_odds, weights, strict=True):
        total.add_(one, alpha=weight)
    return total.div_(sum(weights)).sigmoid_()
