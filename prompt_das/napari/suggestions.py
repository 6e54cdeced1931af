"""Which predicted centers are worth showing: those that say something new.

Points are (x, y) in pixels of a slice, the center of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from prompt_das.inference.interactive.segmentation import Centers

import numpy as np


def new_centers(
    centers: Centers, instances: np.ndarray, prompts: np.ndarray, rejected: np.ndarray, radius: float
) -> Centers:
    """The centers that are neither in an instance with a prompt, nor within ``radius`` of one, nor of a rejected one.

    Negative clicks count as rejected.

    Args:
        instances: (H, W) ids, 0 is background.
        prompts, rejected: (N, 2).
        radius: in pixels.
    """
    points = centers.points
    prompted = _ids_at(instances, prompts)
    ids = _ids_at(instances, points)
    known = np.isin(ids, prompted[prompted > 0]) | near(points, np.concatenate([prompts, rejected]), radius)
    return Centers(points[~known], centers.scores[~known])


def near(points: np.ndarray, others: np.ndarray, radius: float) -> np.ndarray:
    """(N, 2), (M, 2) -> (N,) bool: at most ``radius`` from one of the others."""
    offsets = points[:, None] - others[None]
    return (np.linalg.norm(offsets, axis=-1) <= radius).any(axis=1)


def _ids_at(instances: np.ndarray, points: np.ndarray) -> np.ndarray:
    column, row = np.floor(points).astype(int).T
    return instances[row, column]
