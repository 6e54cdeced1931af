"""Components of a mask of which the network is nowhere sure: most of them are false."""

from __future__ import annotations

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, foreground_components
from prompt_das.ops.points import POSITIVE

import numpy as np


def suppress_weak_components(probability: np.ndarray, confidence: float, clicks: np.ndarray) -> np.ndarray:
    """Make components whose highest probability is below ``confidence`` background (hysteresis thresholding).

    Args:
        probability: (H, W) of the foreground; NaN where it is not known.
        confidence: between the foreground threshold and 1.
        clicks: (N, 3) as (x, y, label) in pixels; a component that holds a positive one stays.

    Returns:
        (H, W), of the dtype of ``probability``; in suppressed components it is the foreground threshold.
    """
    count, components, pixels, found = foreground_components(probability > FOREGROUND_THRESHOLD)
    highest = np.zeros(count + 1, probability.dtype)
    np.maximum.at(highest, found, probability.ravel()[pixels])
    columns, rows = np.floor(clicks[clicks[:, 2] == POSITIVE, :2]).astype(np.int64).T
    weak = highest < confidence
    weak[components[rows, columns]] = False
    kept = probability.copy()
    kept.ravel()[pixels[weak[found]]] = FOREGROUND_THRESHOLD
    return kept
