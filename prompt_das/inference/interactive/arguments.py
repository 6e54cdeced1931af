"""Checks of what a caller of the predictor passes in. Errors name the value."""

from __future__ import annotations

import math

from prompt_das.inference.interactive.resize import Box
from prompt_das.ops.points import require_inside

import numpy as np
from numpy.typing import ArrayLike


def check_points(points: ArrayLike, height: int, width: int) -> np.ndarray:
    """Copy points to a read-only (N, 2) float32 array, N may be 0.

    Raises:
        ValueError: another shape, NaN, or a point outside the slice of (height, width) pixels.
    """
    points = np.array(points, dtype=np.float32)
    if points.size == 0:
        points = points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points have shape {points.shape}; expected (number, 2), each (x, y) in pixels")
    require_inside(points, (height, width))
    points += 0.0  # -0 becomes 0: equal points have equal bytes
    points.flags.writeable = False
    return points


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
