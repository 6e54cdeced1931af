"""What the teacher tells the student about a target image: pseudo points and pseudo masks (Prompt-DAS, Sec. 2.2-2.4).

The labels are attached to the data before the student sees them (:class:`PseudoLabelLoader`), so the training step
itself stays Detectron2's ordinary one.

Shape legend: B images; N points, padded with a validity mask; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..data.dataset_mapper import random_subset
from ..instances import connected_components
from ..modeling.meta_arch import PromptDAS
from ..points import find_peaks, pad_points, suppress_near


def sample_contrastive_points(
    probability: np.ndarray,
    rng: np.random.Generator,
    *,
    queries_per_instance: int,
    max_queries: int,
    num_negatives: int,
    foreground: float,
    background: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Where to ask for contrastive tokens on an image with foreground ``probability`` (H, W).

    Returns:
        queries (Q, 2): up to ``queries_per_instance`` random pixels with probability above ``foreground`` in each
        connected component of the mask; negatives (M, 2): random pixels with probability below ``background``.
    """
    labels = connected_components(probability > 0.5)
    rows, cols = np.nonzero((labels > 0) & (probability > foreground))
    order = rng.permutation(len(rows))
    owner = labels[rows, cols][order]
    # rank of each shuffled pixel within its instance: the first few of each are a random draw
    by_owner = np.argsort(owner, kind="stable")
    _, first, count = np.unique(owner[by_owner], return_index=True, return_counts=True)
    rank = np.arange(len(owner)) - np.repeat(first, count)
    chosen = order[by_owner[rank < queries_per_instance]]
    chosen = rng.permutation(chosen)[:max_queries]
    queries = np.stack([cols[chosen], rows[chosen]], axis=1).astype(np.float32) + 0.5

    rows, cols = np.nonzero(probability < background)
    chosen = rng.permutation(len(rows))[:num_negatives]
    negatives = np.stack([cols[chosen], rows[chosen]], axis=1).astype(np.float32) + 0.5
    return queries, negatives


class PseudoLabeler:
    """Lets the teacher look at the weak view, and moves what it says into the student's view."""

    @configurable
    def __init__(
        self,
        *,
        teacher: PromptDAS,
        use: frozenset[str],
        use_prompts: bool,
        suppression_radius: float,
        peaks: dict[str, Any],
        density_unsure: float,
        pixel_confidence: float,
        image_confidence: float,
        contrastive: dict[str, Any],
    ) -> None:
        """
        Args:
            use: which target losses the student computes: "points", "masks", "contrastive".
            use_prompts: whether teacher and student get prompts on target images.
            suppression_radius: pseudo points closer than this to a sparse point are dropped, in pixels.
            peaks: keyword arguments of :func:`prompt_das.points.find_peaks`.
            density_unsure: where the teacher's density is above this and no point is near, it teaches nothing.
            pixel_confidence: pixels where max(p, 1 - p) is below are ignored.
            image_confidence: the share of pixels at or above it is the weight of an image.
            contrastive: keyword arguments of :func:`sample_contrastive_points`.
        """
        self.teacher = teacher
        self.use = use
        self.use_prompts = use_prompts
        self.suppression_radius = suppression_radius
        self.peaks = peaks
        self.density_unsure = density_unsure
        self.pixel_confidence = pixel_confidence
        self.image_confidence = image_confidence
        self.contrastive = contrastive

    @classmethod
    def from_config(cls, cfg: CfgNode, teacher: PromptDAS) -> dict:
        node = cfg.DOMAIN_ADAPT
        switches = {
            "points": node.USE_POINT_PSEUDO_LABELS,
            "masks": node.USE_MASK_PSEUDO_LABELS,
            "contrastive": node.USE_CONTRASTIVE,
        }
        return {
            "teacher": teacher,
            "use": frozenset(name for name, on in switches.items() if on),
            "use_prompts": node.USE_PROMPTS,
            "suppression_radius": cfg.MODEL.CENTER_HEAD.SIGMA,
            "peaks": {"threshold": node.POINTS.THRESHOLD, "kernel": node.POINTS.KERNEL, "top_k": node.POINTS.TOP_K},
            "density_unsure": node.POINTS.UNSURE,
            "pixel_confidence": node.MASKS.PIXEL_CONFIDENCE,
            "image_confidence": node.MASKS.IMAGE_CONFIDENCE,
            "contrastive": {
                "queries_per_instance": node.CONTRASTIVE.QUERIES_PER_INSTANCE,
                "max_queries": node.CONTRASTIVE.MAX_QUERIES,
                "num_negatives": node.CONTRASTIVE.NUM_NEGATIVES,
                "foreground": node.CONTRASTIVE.FOREGROUND,
                "background": node.CONTRASTIVE.BACKGROUND,
            },
        }

    @torch.no_grad()
    def ask_teacher(
        self, images: Tensor, sparse: Tensor, sparse_valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two passes of the decoder on one pass of the encoder.

        Args:
            images: (B, 1, H, W) weak views; sparse, sparse_valid: (B, N, 2), (B, N).

        Returns:
            foreground probability (B, H, W); density (B, H, W); the pseudo points (B, K, 2), (B, K), none near a
            sparse point.
        """
        teacher = self.teacher
        size = (images.shape[-2], images.shape[-1])
        shown = sparse_valid & self.use_prompts
        embedding = teacher.encode(images)
        if "points" in self.use:
            density = teacher.decode(embedding, sparse, shown, size, mask=False).density
            points, valid, _ = find_peaks(density, **self.peaks)
            valid = suppress_near(points, valid, sparse, sparse_valid, self.suppression_radius)
        else:
            density, points, valid = images[:, 0] * 0, sparse[:, :0], sparse_valid[:, :0]
        prompts = torch.cat([sparse, points], dim=1)
        shown = torch.cat([sparse_valid, valid], dim=1) & self.use_prompts
        probability = teacher.decode(embedding, prompts, shown, size, density=False).logits.sigmoid()
        return probability, density, points, valid

    def __call__(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Samples of :class:`~prompt_das.data.dataset_mapper.TargetMapper` -> the student's labelled inputs."""
        device = self.teacher.device
        images = torch.stack([x["weak_image"] for x in samples]).to(device, non_blocking=True)
        sparse, sparse_valid = pad_points([torch.from_numpy(x["sparse_points"]) for x in samples], device=device)
        answer = [t.cpu().numpy() for t in self.ask_teacher(images, sparse, sparse_valid)]
        probability, _, _, valid = answer
        labelled = [self.label(x, p, d, q[v]) for x, p, d, q, v in zip(samples, *answer, strict=True)]
        storage = get_event_storage()
        storage.put_scalar("pseudo/points", valid.sum(1).mean())
        storage.put_scalar("pseudo/confident_pixels", np.mean([x["image_weight"] for x in labelled]))
        storage.put_scalar("pseudo/foreground", np.mean(probability > 0.5))
        return labelled

    def label(
        self, x: dict[str, Any], probability: np.ndarray, density: np.ndarray, pseudo_points: np.ndarray
    ) -> dict[str, Any]:
        """One sample and what the teacher says of its weak view, (H, W), (H, W) and (K, 2) -> a student input."""
        rng = np.random.default_rng(x["seed"])
        move = x["geometric"]
        queries, negatives = sample_contrastive_points(probability, rng, **self.contrastive)
        points = np.concatenate([x["sparse_points"], pseudo_points])
        probability = np.ascontiguousarray(move.apply_image(probability))
        confidence = np.maximum(probability, 1 - probability)
        return {
            "domain": "target",
            "image_id": x["image_id"],
            "box": x["box"],
            "use": self.use,
            "image": x["image"],
            "mask": torch.from_numpy((probability > 0.5).astype(np.uint8)),
            "pixel_valid": torch.from_numpy(confidence >= self.pixel_confidence),
            "image_weight": float((confidence >= self.image_confidence).mean()),
            "density_unsure": torch.from_numpy(np.ascontiguousarray(move.apply_image(density)) > self.density_unsure),
            "points": move.apply_coords(points).astype(np.float32),
            "prompts": move.apply_coords(random_subset(points if self.use_prompts else points[:0], rng)).astype(
                np.float32
            ),
            "contrastive": {
                kind: move.apply_coords(group).astype(np.float32)
                for kind, group in (
                    ("positives", x["sparse_points"]),
                    ("queries", queries),
                    ("negatives", negatives),
                )
            },
        }


class PseudoLabelLoader:
    """Wraps a loader of (source, target) samples: yields one flat list per iteration, its target part labelled."""

    def __init__(self, loader: Iterable, labeler: PseudoLabeler) -> None:
        self.loader = loader
        self.labeler = labeler

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for source, target in self.loader:
            yield source + self.labeler(target) if target else source
