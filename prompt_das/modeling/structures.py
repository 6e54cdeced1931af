"""What flows through the network: points, a training batch, a prediction.

Shape legend: B images, in training the source images first and the B' target images last; N points, padded with a
validity mask; H, W pixels; M contrastive tokens; D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prompt_das.ops.batching import pad, stack
from prompt_das.ops.points import pack_points

import torch
from torch import Tensor

CONTRASTIVE_KINDS = ("positives", "queries", "negatives")


class Points(NamedTuple):
    """Points (x, y) in pixels of the image, and which of them are no padding."""

    points: Tensor  # (B, N, 2)
    valid: Tensor  # (B, N) bool


class Prediction(NamedTuple):
    logits: Tensor  # (B, H, W) of the foreground
    density: Tensor  # (B, H, W) of center points
    contrastive: Tensor  # (B', M, D) embeddings; (B, 0, D) without contrastive points


class TrainingBatch(NamedTuple):
    """The crops of a training step: the inputs of the network, and what it should predict."""

    images: Tensor  # (B, 1, H, W), gray values 0-255
    prompts: Points
    mask: Tensor  # (B, H, W) in [0, 1]: labels, and pseudo-labels of target images
    points: Points  # the centers of instances, to render the density from
    # Of target images; None without any.
    pixel_valid: Tensor | None = None  # (B', H, W) bool: where the pseudo-mask counts
    image_weight: Tensor | None = None  # (B',): how much the pseudo-mask of an image counts
    density_ignore: Tensor | None = None  # (B', H, W) bool: where the density counts only near a point
    contrastive: tuple[Points, ...] = ()  # one for each of CONTRASTIVE_KINDS, (B', ...); () without contrastive loss

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def num_source(self) -> int:
        """B - B'."""
        return len(self.images) - (0 if self.pixel_valid is None else len(self.pixel_valid))


def collate(samples: Sequence[Mapping[str, Any]], device: torch.device, *, contrastive: bool) -> TrainingBatch:
    """Crops of equal size as :mod:`prompt_das.data.samples` defines them, target samples last -> a batch on ``device``.

    Where the samples lie on a GPU already, or in pinned memory, nothing here waits for it.

    Args:
        contrastive: whether the contrastive points of target samples are needed.
    """

    def points(group: Sequence[Mapping[str, Any]], key: str) -> Points:
        return Points(*pack_points(*pad(group, key, device)))

    targets = [sample for sample in samples if sample["domain"] == "target"]
    batch = TrainingBatch(
        images=stack(samples, "image", device),
        prompts=points(samples, "prompts"),
        mask=stack(samples, "mask", device),
        points=points(samples, "points"),
    )
    if not targets:
        return batch
    batch = batch._replace(
        pixel_valid=stack(targets, "pixel_valid", device),
        image_weight=stack(targets, "image_weight", device),
        density_ignore=stack(targets, "density_ignore", device),
    )
    if contrastive:
        nested = [sample["contrastive"] for sample in targets]
        batch = batch._replace(contrastive=tuple(points(nested, kind) for kind in CONTRASTIVE_KINDS))
    return batch
