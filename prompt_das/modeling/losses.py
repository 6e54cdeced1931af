"""The losses of Prompt-DAS (Sec. 2.2-2.4). Every one is a mean over images, and zero, not NaN, where nothing counts.

Shape legend: B images; H, W pixels; P, Q, N points padded with a validity mask; D channels of an embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(
    logits: Tensor, target: Tensor, pixel_valid: Tensor | None = None, image_weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy: mean over an image's valid pixels, times the image's weight, mean over images (L_seg).

    Args:
        logits: (B, H, W) foreground logits.
        target: (B, H, W) in [0, 1].
        pixel_valid: (B, H, W) bool; False = ignored (the teacher is unsure). None: all count.
        image_weight: (B,); None: 1.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").flatten(1)
    if pixel_valid is None:
        per_image = loss.mean(1)
    else:
        valid = pixel_valid.flatten(1).to(loss.dtype)
        per_image = (loss * valid).sum(1) / valid.sum(1).clamp(min=1)
    if image_weight is not None:
        per_image = per_image * image_weight
    return per_image.mean()


def dice_loss(
    logits: Tensor, target: Tensor, pixel_valid: Tensor | None = None, image_weight: Tensor | None = None
) -> Tensor:
    """Soft Dice loss (Milletari et al. 2016) of all images together, since one alone may hold no foreground.

    Not in the paper. With several processes, each computes it on its own images. Arguments as of
    :func:`segmentation_loss`.
    """
    weight = torch.ones_like(logits, dtype=torch.float32) if pixel_valid is None else pixel_valid.float()
    if image_weight is not None:
        weight = weight * image_weight[:, None, None]
    probability, target = logits.float().sigmoid(), target.float()
    overlap = (weight * probability * target).sum()
    total = (weight * (probability + target)).sum()
    return 1 - (2 * overlap + 1) / (total + 1)


def detection_loss(density: Tensor, target: Tensor, pixel_valid: Tensor | None = None) -> Tensor:
    """Squared error of two (B, H, W) density maps: mean over an image's valid pixels, mean over images (L_det).

    ``pixel_valid``: (B, H, W) bool; False = unknown whether there is a center. None: all count.
    """
    error = (density.float() - target.float()).square().flatten(1)
    if pixel_valid is None:
        return error.mean()
    valid = pixel_valid.flatten(1).to(error.dtype)
    return ((error * valid).sum(1) / valid.sum(1).clamp(min=1)).mean()


def contrastive_loss(
    positives: Tensor,
    positive_valid: Tensor,
    queries: Tensor,
    query_valid: Tensor,
    negatives: Tensor,
    negative_valid: Tensor,
    temperature: float = 0.5,
) -> Tensor:
    """Prompt-guided contrastive loss (L_pcl): queries are drawn to the mean embedding of the prompts.

    The mean prompt and the negatives are targets, so no gradient flows into them. An image without a prompt, a query
    or a negative adds zero.

    Args:
        positives, queries, negatives: (B, P, D), (B, Q, D), (B, N, D) embeddings.
        positive_valid, query_valid, negative_valid: (B, P), (B, Q), (B, N) bool.
        temperature: of the cosine similarity.
    """
    positives, queries, negatives = positives.float(), queries.float(), negatives.float()
    weight = positive_valid.float()
    mean = (positives * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
    prototype = F.normalize(mean.detach(), dim=-1)
    queries = F.normalize(queries, dim=-1)
    negatives = F.normalize(negatives.detach(), dim=-1)

    to_positive = (queries @ prototype[..., None]) / temperature  # (B, Q, 1)
    to_negatives = (queries @ negatives.transpose(1, 2)) / temperature  # (B, Q, N)
    to_negatives = to_negatives.masked_fill(~negative_valid[:, None], float("-inf"))
    per_query = torch.cat([to_positive, to_negatives], dim=-1).logsumexp(-1) - to_positive.squeeze(-1)

    complete = positive_valid.any(1) & negative_valid.any(1)
    counted = (query_valid & complete[:, None]).float()
    return ((per_query * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()


def center(embeddings: Tensor, valid: Tensor) -> Tensor:
    """Subtract from embeddings (B, M, D) the mean of the valid ones of the batch; ``valid`` (B, M) bool."""
    weight = valid[..., None].to(embeddings.dtype)
    return embeddings - (embeddings * weight).sum((0, 1)) / weight.sum().clamp(min=1)
