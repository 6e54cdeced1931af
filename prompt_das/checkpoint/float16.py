"""Weights in half the bytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MIN_VALUES = 4096  # smaller tensors, such as biases, scales and frequencies, are no weight in the file
MAX_ERROR = 2.0**-10  # norm of what rounding changes, in norms of the tensor; float16 has 11 significant bits


def to_float16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with large float32 tensors as float16, where that changes next to nothing.

    Small tensors, integers and those whose values are out of float16's range (above 65504, most below 0.00006) stay.
    """
    return {name: _round(value) for name, value in state.items()}


def _round(value: Tensor) -> Tensor:
    """A tensor of any shape as float16, or as it is."""
    if value.dtype != torch.float32 or value.numel() < MIN_VALUES:
        return value
    rounded = value.half()
    error = (rounded.float() - value).norm()
    return rounded if error <= MAX_ERROR * value.norm() else value
