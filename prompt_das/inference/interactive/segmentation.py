"""What a predictor answers: the segmentation of a slice, with the centers that the network found.

Shapes: H, W height and width of the slice, N points. A point is (x, y) in pixels of the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from prompt_das.inference.interactive.resize import Box
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, remove_small, semantic_to_instances
from prompt_das.ops.points import PEAK_THRESHOLD, as_clicks
from prompt_das.ops.split_instances import split_at_centers

import numpy as np


class Centers(NamedTuple):
    """Predicted centers of instances, by falling score."""

    points: np.ndarray  # (N, 2) float32, (x, y) in pixels of the slice
    scores: np.ndarray  # (N,) float32, about 1 for a sure one


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The prediction of a slice so far. The arrays are read-only and no later call changes them.

    Attributes:
        probability: (H, W) float32 of the foreground; NaN where nothing was predicted yet, see ``region`` of
            :meth:`Predictor.predict`.
        points, labels: (N, 2) float32 and (N,) int8, those of the call.
        changed: a box around the pixels that differ from the result before (of a new image: around those that were
            predicted); None if there are none.
        done, total: windows of this call that are in the result, and all of them. A window counts again with
            ``centers``, and where clicks are limited to their objects, for the mask without them.
        centers: predicted centers in the part that was predicted; None without ``centers``, or if windows are missing.
        min_size: instances of at most so many pixels are left out.
        centers_map: if instances are split at centers, the density (H, W) float32 of center points, NaN where it was
            not predicted. None if they are components, as all are while windows are missing.
        peaks: lowest density of a center, and width of the window in which it is the highest.
    """

    probability: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    changed: Box | None
    done: int
    total: int
    centers: Centers | None
    min_size: int
    centers_map: np.ndarray | None = None
    peaks: tuple[float, int] = (PEAK_THRESHOLD, 5)

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool: foreground."""
        return self.probability > FOREGROUND_THRESHOLD

    @cached_property
    def instances(self) -> np.ndarray:
        """(H, W) int32: 1 ... n in raster order, 0 elsewhere: the 8-connected components of the mask, or their parts.

        Parts are those of :func:`prompt_das.ops.split_instances.split_at_centers`, see ``centers_map``.
        """
        return self.instances_above(FOREGROUND_THRESHOLD)

    def instances_above(self, threshold: float, min_size: int | None = None) -> np.ndarray:
        """(H, W) int32: the instances for another threshold of the probability, and another ``min_size`` in pixels."""
        min_size = self.min_size if min_size is None else min_size
        if self.centers_map is None:
            return semantic_to_instances(self.probability > threshold, min_size)
        clicks = as_clicks(self.points, self.labels)
        peak_threshold, kernel = self.peaks
        labels, _ = split_at_centers(
            self.probability,
            self.centers_map,
            clicks,
            threshold=threshold,
            peak_threshold=peak_threshold,
            kernel=kernel,
        )
        return remove_small(labels, min_size)
