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


def connected_components(mask: np.ndarray, min_size: int = 0) -> np.ndarray:
    """Label the 8-connected components of a slice.

    Args:
        mask: (H, W); everything that is not zero is foreground.
        min_size: components of at most this many pixels are background.

    Returns:
        int32 (H, W): 0 background, 1 … n in the raster order of each component's first pixel, so that whatever is
        drawn by the order of the instances (sparse points, say) does not depend on the OpenCV version.

    Raises:
        ValueError: the mask is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; connected_components takes one slice of shape (H, W)")
    count, labels, pixels, found = foreground_components(mask != 0)
    large = np.bincount(found, minlength=count + 1) > min_size
    labels.ravel()[pixels] = _raster_order(_first_of_labels(pixels, found, count), large)[found]
    return labels


def first_pixels(mask: np.ndarray) -> np.ndarray:
    """The index of the first pixel of each 8-connected component of a mask (H, W): (n,) ascending."""
    count, _, pixels, found = foreground_components(mask != 0)
    return np.sort(_first_of_labels(pixels, found, count)[1:])


def foreground_components(foreground: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Label the 8-connected components of a slice (H, W) bool in no particular order, which takes half of the time.

    Returns:
        n, the number of components; int32 (H, W) labels, 0 background, 1 ... n; the foreground's pixels, ascending
        indices; their labels.
    """
    if foreground.size == 0:  # OpenCV takes none
        return 0, np.zeros(foreground.shape, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int32)
    foreground = np.ascontiguousarray(foreground)
    count, labels = cv2.connectedComponents(foreground.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    pixels = np.flatnonzero(foreground)
    return count - 1, labels, pixels, labels.ravel()[pixels]


def in_raster_order(labels: np.ndarray, count: int) -> np.ndarray:
    """Number labels anew in the raster order of their first pixels.

    Args:
        labels: (H, W), 0 ... ``count``, each of which occurs.

    Returns:
        int32 (count + 1,): the new label of each; 0 stays.
    """
    pixels = np.flatnonzero(labels != 0)
    first = _first_of_labels(pixels, labels.ravel()[pixels], count)
    return _raster_order(first, np.ones(count + 1, bool))


def _first_of_labels(pixels: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """The first pixel of each label 1 ... ``count`` (count + 1,), from ascending pixels and their labels."""
    first = np.zeros(count + 1, dtype=np.int64)
    # Of repeated indices numpy keeps the last assignment: going backwards that is the first pixel.
    first[found[::-1]] = pixels[::-1]
    return first


def _raster_order(first: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The new label (count + 1,) of each label by its ``first`` pixel; 0 of those that are not ``kept``, and of 0."""
    new_ids = np.zeros(len(first), dtype=np.int32)
    ids = 1 + np.flatnonzero(kept[1:])
    new_ids[ids[np.argsort(first[ids])]] = np.arange(1, len(ids) + 1, dtype=np.int32)
    return new_ids


def semantic_to_instances(mask: np.ndarray, min_size: int = MIN_INSTANCE_SIZE) -> np.ndarray:
    """Turn a predicted foreground mask into instances, without the specks.

    Args:
        mask: (H, W), foreground where not zero.
        min_size: components of at most this many pixels are removed.

    Returns:
        int32 (H, W) label map with consecutive ids 1 … n in raster order.
    """
    return connected_components(mask, min_size)


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
