"""Peaks of the center density of a whole slice on the CPU: the same peaks as :func:`prompt_das.ops.points.find_peaks`.

That function works on batches of crops on the network's device, without a transfer to the host. A slice has millions
of pixels and few peaks: here everything but the window's maximum is computed for the few candidate pixels only.
"""

from __future__ import annotations

from prompt_das.ops.points import PEAK_THRESHOLD
from prompt_das.ops.stored_maps import as_unit, lowest_stored

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


def find_slice_peaks(
    density: np.ndarray, threshold: float = PEAK_THRESHOLD, kernel: int = 5, top_k: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Find the peaks of one density map.

    Args:
        density: (H, W), or uint8 of which 255 is 1; NaN is unknown. Beside it there is no peak, since a higher value
            may be there.
        threshold, kernel, top_k: see :func:`prompt_das.ops.points.find_peaks`.

    Returns:
        points (N, 2) float32 at pixel centers, and scores (N,) float32: the highest first, equal ones in raster order.

    Raises:
        ValueError: an even kernel.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernel of find_slice_peaks is {kernel}; it must be odd, 5 for example")
    density = np.asarray(density)
    stored = density.dtype == np.uint8
    if not stored:
        density = density.astype(np.float32, copy=False)
    known = density if stored else np.where(np.isnan(density), np.float32(np.inf), density)
    highest = cv2.dilate(known, np.ones((kernel, kernel), np.uint8))
    high = np.flatnonzero(density >= (lowest_stored(threshold) if stored else threshold))
    high = high[density.ravel()[high] == highest.ravel()[high]]
    rows, columns = np.divmod(high, density.shape[1])
    if len(rows):
        first = _first_of_plateaus(np.stack([rows, columns], axis=-1), kernel // 2)
        rows, columns = rows[first], columns[first]
    scores = as_unit(density[rows, columns])
    order = np.argsort(-scores, kind="stable")[:top_k]
    points = np.stack([columns, rows], axis=-1)[order].astype(np.float32) + np.float32(0.5)
    return points, scores[order]


def _first_of_plateaus(position: np.ndarray, reach: int) -> np.ndarray:
    """Group positions (N, 2) that are at most ``reach`` pixels apart -> the index of the first one of each group."""
    pairs = cKDTree(position).query_pairs(reach + 0.5, p=np.inf, output_type="ndarray")
    count = len(position)
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, plateau = connected_components(graph, directed=False)
    return np.unique(plateau, return_index=True)[1]
