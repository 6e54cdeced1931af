"""Maps as volumes store them: uint8, of which 255 is 1."""

from __future__ import annotations

import numpy as np
from torch import Tensor

_LEVELS = np.arange(256, dtype=np.uint8)


def as_stored(values: Tensor) -> np.ndarray:
    """Bring values from 0 to 1 to the nearest of 256; halves go down.

    So 0.5 becomes 127 and all above it 128 or more: a threshold of 0.5 separates what it separated before.
    """
    return (255 * values.clamp(0, 1) - 0.5).ceil().byte().cpu().numpy()


def as_unit(values: np.ndarray) -> np.ndarray:
    """Bring values to the range 0 to 1, float32: uint8 is divided by 255, floats are there already."""
    unit = values.astype(np.float32, copy=False)
    return unit / 255 if values.dtype == np.uint8 else unit


def lowest_stored(threshold: float) -> int:
    """The lowest stored value that is at least ``threshold``, 256 if none is."""
    return int(np.searchsorted(as_unit(_LEVELS), np.float32(threshold)))
