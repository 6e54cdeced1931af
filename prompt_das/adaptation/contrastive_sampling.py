"""Pixels of a pseudo-labeled image at which contrastive tokens are computed (Prompt-DAS, Sec. 2.4).

Shapes: B images, H×W pixels, Q queries, M negatives; both padded with a validity mask.
"""

from __future__ import annotations

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, label_components

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max


def sample_contrastive_points(
    probability: Tensor,
    noise: Tensor,
    *,
    queries_per_instance: int,
    max_queries: int,
    num_negatives: int,
    foreground: float,
    background: float,
) -> dict[str, Tensor]:
    """Random pixels of the pseudo-instances and of the background. Nothing here waits for the device.

    Args:
        probability: (B, H, W) of the foreground; the pseudo-instances are the connected components of the mask.
        noise: (B, H, W) non-negative random integers: the pixels with the smallest ones are chosen.
        queries_per_instance: so many pixels with probability above ``foreground`` of each instance, or all there are.
        max_queries: Q; of more, a random choice.
        num_negatives: M pixels with probability below ``background``, or all there are.

    Returns:
        ``queries`` (B, Q, 2) and ``negatives`` (B, M, 2), pixel centers, with ``queries_valid`` (B, Q) and
        ``negatives_valid`` (B, M) bool.
    """
    height, width = probability.shape[1:]
    instances = probability > FOREGROUND_THRESHOLD
    roots = label_components(instances).flatten(1)
    index = torch.arange(height * width, device=probability.device)
    key = noise.flatten(1) * index.numel() + index  # no two pixels have the same
    left = key.masked_fill(~(instances & (probability > foreground)).flatten(1), NEVER)
    chosen = torch.zeros_like(left, dtype=torch.bool)
    for _ in range(queries_per_instance):
        lowest = torch.full_like(left, NEVER).scatter_reduce(1, roots, left, "amin")
        new = (left == lowest.gather(1, roots)) & (left < NEVER)
        chosen |= new
        left = left.masked_fill(new, NEVER)
    # Among the chosen ones the small keys belong to large instances: take those of other pixels for the second choice.
    queries = _smallest(key.flip(1).masked_fill(~chosen, NEVER), max_queries)
    negatives = _smallest(key.masked_fill((probability >= background).flatten(1), NEVER), num_negatives)
    points = {}
    for name, (where, valid) in (("queries", queries), ("negatives", negatives)):
        points[name] = torch.stack([where % width, where // width], dim=-1) + 0.5
        points[f"{name}_valid"] = valid
    return points


def _smallest(keys: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Indices of the smallest keys of each image, (B, number), and which of them are any."""
    number = min(number, keys.shape[1])
    value, index = keys.topk(number, largest=False)
    return index, value < NEVER
