"""One instance cut in parts, one for each point on it that the user gives.

Shapes: h, w height and width of a box around the instance; n points.
"""

from __future__ import annotations

from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.split_instances import flood, measure_relief

import numpy as np


def split_at_points(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Give each pixel of an instance to a seed: necks become borders, see :mod:`prompt_das.ops.split_instances`.

    Args:
        mask: (h, w) bool; it may have several components. One without a seed goes to the seed nearest to it. The
            border of the box is none of the instance: leave a pixel around it.
        seeds: (n, 2) positions (row, column) on the mask, at least one.

    Returns:
        int32 (h, w): i + 1 for the seed i, 0 outside.

    Raises:
        ValueError: a seed beside the mask, or two at one place.
    """
    seeds = np.asarray(seeds, np.int64)
    if not mask[tuple(seeds.T)].all():
        raise ValueError("a point of the split lies beside the instance: put each on one of its parts")
    if len(np.unique(seeds, axis=0)) < len(seeds):
        raise ValueError("two points of the split are one pixel: put them on different parts")
    components = connected_components(mask)
    owner = components[tuple(seeds.T)]
    parts = np.zeros(mask.shape, np.int32)
    for component in range(1, int(components.max(initial=0)) + 1):
        inside, own = components == component, np.flatnonzero(owner == component)
        if len(own) > 1:
            relief = measure_relief(inside, inside.astype(np.float32), 0.5)
            parts[inside] = own[flood(inside, relief, seeds[own])[inside] - 1] + 1
        elif len(own):
            parts[inside] = own[0] + 1
        else:
            distance = np.square(np.argwhere(inside)[:, None] - seeds).sum(axis=-1)
            parts[inside] = distance.min(axis=0).argmin() + 1
    return parts
