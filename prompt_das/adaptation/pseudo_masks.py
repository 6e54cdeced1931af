"""What peaks of the density, sure pixels and clicks say about a pseudo-mask, which the teacher made of its probability.

Shape legend: B images; N, M points, padded with a validity mask; H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prompt_das.adaptation.point_pixels import point_to_index
from prompt_das.ops.connected_components import label_components
from prompt_das.ops.points import render_density

import torch
from torch import Tensor


def confirmed_components(mask: Tensor, evidence: Sequence[Tensor], points: Tensor, points_valid: Tensor) -> Tensor:
    """The components of a mask that evidence of every kind, or a point, confirms.

    Args:
        mask: (B, H, W) bool.
        evidence: of each kind (B, H, W) bool; a component that has all kinds, each anywhere, stays.
        points, points_valid: (B, N, 2), (B, N): a component that holds one stays, too.

    Returns:
        (B, H, W) bool, False in the other components, but for those at the border: most of them may lie outside.
    """
    certain = torch.zeros_like(mask)
    certain[:, 0] = certain[:, -1] = certain[:, :, 0] = certain[:, :, -1] = True  # with a list, a GPU would wait
    index = point_to_index(points, *mask.shape[1:])
    certain = certain.flatten(1).to(torch.int32).scatter_reduce(1, index, points_valid.int(), "amax")
    inside, roots = mask.flatten(1), label_components(mask).flatten(1)
    confirmed = inside
    for kind in evidence:
        found = (certain | kind.flatten(1)) * inside
        found = torch.zeros_like(found).scatter_reduce(1, roots, found, "amax")
        confirmed = confirmed & (found.gather(1, roots) > 0)
    return confirmed.view_as(mask)


def supervise_near_clicks(
    mask: Tensor,
    pixel_valid: Tensor,
    positive: Tensor,
    positive_valid: Tensor,
    negative: Tensor,
    negative_valid: Tensor,
    radius: float,
) -> tuple[Tensor, Tensor]:
    """Put what clicks say for certain into a pseudo-label.

    Args:
        mask: (B, H, W) uint8; pixel_valid: (B, H, W) bool.
        positive, positive_valid: (B, N, 2), (B, N): pixels within ``radius`` of them are foreground; background as far
            again around those is ignored.
        negative, negative_valid: (B, M, 2), (B, M): pixels within ``radius`` of them are background.

    Returns:
        the new mask and pixel_valid.
    """
    size = (mask.shape[-2], mask.shape[-1])
    # A Gaussian of standard deviation ``radius`` is exp(-1/2) at the radius and exp(-2) at twice of it.
    near_positive = render_density(positive, positive_valid, size, radius)
    near_negative = render_density(negative, negative_valid, size, radius)
    foreground, around = near_positive >= math.exp(-0.5), near_positive >= math.exp(-2)
    background = (near_negative >= math.exp(-0.5)) & (near_negative >= near_positive)
    foreground &= ~background
    ignored = around & (mask == 0)
    mask = mask.masked_fill(foreground, 1).masked_fill(background, 0)
    return mask, (pixel_valid & ~ignored) | foreground | background
