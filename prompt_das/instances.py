"""From a binary mask to instances: the 8-connected components of a 2-D slice.

Shapes: H, W are the height and width of a slice in pixels. A label map is an integer (H, W) array, 0 is background.
"""

from __future__ import annotations

import cv2
import numpy as np


def connected_components(mask: np.ndarray) -> np.ndarray:
    """Label the 8-connected components of a slice.

    Args:
        mask: (H, W); everything that is not zero is foreground.

    Returns:
        int32 (H, W): 0 background, 1 … n in the raster order of each component's first pixel, so that whatever is
        drawn by the order of the instances (sparse points, say) does not depend on the OpenCV version.

    Raises:
        ValueError: the mask is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; connected_components takes one slice of shape (H, W)")
    if mask.size == 0:
        return np.zeros(mask.shape, dtype=np.int32)
    count, labels = cv2.connectedComponents((mask != 0).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    pixels = np.flatnonzero(labels)
    first = np.zeros(count, dtype=np.int64)
    # Of repeated indices numpy keeps the last assignment: going backwards that is the first pixel.
    first[labels.ravel()[pixels[::-1]]] = pixels[::-1]
    new_ids = np.zeros(count, dtype=np.int32)
    new_ids[1 + np.argsort(first[1:])] = np.arange(1, count, dtype=np.int32)
    return new_ids[labels]


def semantic_to_instances(mask: np.ndarray, min_size: int = 15) -> np.ndarray:
    """Turn a predicted foreground mask into instances, without the specks.

    Args:
        mask: (H, W), foreground where not zero.
        min_size: components of at most this many pixels are removed (15 in the authors' evaluation).

    Returns:
        int32 (H, W) label map with consecutive ids 1 … n in raster order.
    """
    labels = connected_components(mask)
    keep = np.bincount(labels.ravel(), minlength=1) > min_size
    keep[0] = False
    return (np.cumsum(keep, dtype=np.int32) * keep)[labels]
