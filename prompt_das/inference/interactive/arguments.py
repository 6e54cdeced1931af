"""Checks of what a caller of the predictor passes in. Errors name the value."""

from __future__ import annotations

import math

from prompt_das.inference.interactive.resize import Box
from prompt_das.ops.points import as_clicks, require_inside

import numpy as np
from numpy.typing import ArrayLike


def check_clicks(points: ArrayLike, labels: ArrayLike | None, size: tuple[int, int]) -> np.ndarray:
    """Copy points (N, 2) and their labels (N,), by default all positive, to a read-only (N, 3) float32 array of clicks.

    Raises:
        ValueError: another shape, NaN, another label than 0 or 1, or a point outside the slice of ``size`` (H, W).
    """
    points = np.array(points, dtype=np.float32)
    if points.size and (points.ndim != 2 or points.shape[1] != 2):
        raise ValueError(f"points have shape {points.shape}; expected (number, 2), each (x, y) in pixels")
    clicks = as_clicks(points, None if labels is None else np.asarray(labels))
    require_inside(clicks[:, :2], size)
    clicks += 0.0  # -0 becomes 0: equal clicks have equal bytes
    clicks.flags.writeable = False
    return clicks


def check_region(region: Box) -> Box:
    """Round a box (y0, x0, y1, x1) outwards to whole pixels.

    Raises:
        ValueError: not four numbers, or an empty box.
    """
    try:
        y0, x0, y1, x1 = region
        box = math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1)
    except (TypeError, ValueError, OverflowError) as e:
        raise ValueError(f"region is {region!r}; expected a box (y0, x0, y1, x1) in pixels") from e
    if not (y0 < y1 and x0 < x1):
        raise ValueError(f"region is {region!r}; expected (y0, x0, y1, x1) with y0 < y1 and x0 < x1")
    return box
