"""Points as pixels: what the maps of a batch say at them, without a loop over images or a wait for the GPU.

Shape legend: B images; N points (x, y), padded with a validity mask; H, W pixels.
"""

from __future__ import annotations

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD

import torch
from torch import Tensor


def point_to_index(points: Tensor, height: int, width: int) -> Tensor:
    """Points (B, N, 2) -> (B, N) indices of their pixels, row * width + column; outside the image the nearest pixel."""
    column, row = points.floor().long().unbind(-1)
    return row.clamp(0, height - 1) * width + column.clamp(0, width - 1)


def warp_points(points: Tensor, forward_pixel_map: Tensor) -> Tensor:
    """Points (B, N, 2) of the weak view -> (B, N, 2) in the strong view, by ``forward_pixel_map`` (B, H, W, 2)."""
    index = point_to_index(points, *forward_pixel_map.shape[1:3])
    return forward_pixel_map.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 2))


def random_subset(points: Tensor, valid: Tensor, ratio: Tensor, noise: Tensor) -> Tensor:
    """A random subset of each image's n points; its size is uniform in {0 ... n} for ``ratio`` uniform in [0, 1).

    Args:
        points, valid: (B, N, 2) and (B, N) bool.
        ratio: (B,): the subset has floor(ratio * (n + 1)) points.
        noise: (B, H, W) random integers: the points on the pixels with the smallest ones are chosen, so that the choice
            does not depend on the other images of the batch.

    Returns:
        (B, N) bool.
    """
    key = noise.flatten(1).gather(1, point_to_index(points, *noise.shape[1:]))
    key = key.masked_fill(~valid, torch.iinfo(torch.int64).max)
    rank = key.argsort(dim=1, stable=True).argsort(dim=1)
    size = (ratio * (valid.sum(1) + 1)).floor()
    return valid & (rank < size[:, None])


def sparse_recall(probability: Tensor, points: Tensor, valid: Tensor) -> Tensor:
    """The fraction of valid points inside the predicted foreground; NaN, which is not logged, where there is none.

    It needs no masks: sparse points are known to be foreground.

    Args:
        probability: (B, H, W) of the foreground; points, valid: (B, N, 2) and (B, N) bool.
    """
    hit = probability.flatten(1).gather(1, point_to_index(points, *probability.shape[1:])) > FOREGROUND_THRESHOLD
    return (hit & valid).sum() / valid.sum()
