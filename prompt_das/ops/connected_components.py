"""Connected components of masks: of one slice on the host (OpenCV), and of a batch on the device where it lies.

Shapes: B images, H×W pixels. A label map is an integer (H, W) array, 0 is background. A pixel's index is its place in
raster order, row · W + column.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FOREGROUND_THRESHOLD = 0.5  # a pixel is foreground if its probability is above
MIN_INSTANCE_SIZE = 15  # components of at most so many pixels are removed, as in the authors' evaluation


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
    return in_raster_order(labels, count - 1)[labels]


def in_raster_order(labels: np.ndarray, count: int) -> np.ndarray:
    """Number labels anew in the raster order of their first pixels.

    Args:
        labels: (H, W), 0 ... ``count``, each of which occurs.

    Returns:
        int32 (count + 1,): the new label of each; 0 stays.
    """
    pixels = np.flatnonzero(labels)
    first = np.zeros(count + 1, dtype=np.int64)
    # Of repeated indices numpy keeps the last assignment: going backwards that is the first pixel.
    first[labels.ravel()[pixels[::-1]]] = pixels[::-1]
    new_ids = np.zeros(count + 1, dtype=np.int32)
    new_ids[1 + np.argsort(first[1:])] = np.arange(1, count + 1, dtype=np.int32)
    return new_ids


def semantic_to_instances(mask: np.ndarray, min_size: int = MIN_INSTANCE_SIZE) -> np.ndarray:
    """Turn a predicted foreground mask into instances, without the specks.

    Args:
        mask: (H, W), foreground where not zero.
        min_size: components of at most this many pixels are removed.

    Returns:
        int32 (H, W) label map with consecutive ids 1 … n in raster order.
    """
    return remove_small(connected_components(mask), min_size)


def remove_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    """Remove instances of at most ``min_size`` pixels: labels (H, W) 0 ... n -> int32 (H, W), consecutive again."""
    keep = np.bincount(labels.ravel(), minlength=1) > min_size
    keep[0] = False
    return (np.cumsum(keep, dtype=np.int32) * keep)[labels]


def label_components(mask: Tensor, kernel: int = 3) -> Tensor:
    """Give every pixel of a component the index of its first pixel.

    In each round a pixel takes the smallest index in its window, and passes it to the pixel whose index it had;
    replacing each index by the index stored there, twice (pointer jumping), makes the number of rounds logarithmic in
    the length of a component: spirals and serpentines, the worst known, need log2 of the longer side and one or two
    more. A GPU does a fixed number of rounds, since to check for changes would stall it; a CPU stops after a round
    without any.

    Args:
        mask: (B, H, W) bool.
        kernel: odd width of the window in which two pixels are neighbors; 3 is 8-connectivity.

    Returns:
        int64 (B, H, W): the smallest index of the pixel's component; of a pixel outside the mask its own.
    """
    batch, height, width = mask.shape
    own = torch.arange(height * width, device=mask.device).expand(batch, -1)
    exact = torch.float32 if height * width <= 1 << 24 else torch.float64  # windows have a maximum of floats only
    inside = mask.flatten(1)
    root = own
    for _ in range(math.ceil(math.log2(max(height, width, 1))) + 4):
        seen = -root.to(exact).masked_fill(~inside, math.inf).view(batch, height, width)
        smallest = -window_max(seen, kernel).flatten(1)
        smallest = torch.where(inside, smallest, own.to(exact)).long()
        # The pixel at a stored index gets the smallest index found by those that store it: whole branches move at once.
        smallest = torch.scatter_reduce(smallest, 1, root, smallest, "amin")
        for _ in range(2):
            smallest = smallest.gather(1, smallest)
        if mask.device.type == "cpu" and torch.equal(smallest, root):
            break
        root = smallest
    return root.view(batch, height, width)


def window_max(values: Tensor, kernel: int) -> Tensor:
    """Maximum over a kernel×kernel window, (B, H, W) -> (B, H, W); rows first, then columns, is cheaper than both."""
    values = F.max_pool2d(values, (kernel, 1), stride=1, padding=(kernel // 2, 0))
    return F.max_pool2d(values, (1, kernel), stride=1, padding=(0, kernel // 2))
