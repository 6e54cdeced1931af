"""What the teacher tells the student about a target image: pseudo points and pseudo masks (Prompt-DAS, Sec. 2.2-2.4).

The labels are attached to the data before the student sees them (:class:`PseudoLabelLoader`), so the training step
itself stays Detectron2's ordinary one. They are made where the teacher is, batch by batch, and no GPU has to wait for
the host on the way: what is random comes with the samples.

Shape legend: B images; N points, padded with a validity mask; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prompt_das.adaptation.contrastive_sampling import sample_contrastive_points
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.batching import pad, stack
from prompt_das.ops.points import find_peaks, suppress_near

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor


class PseudoLabeler:
    """Lets the teacher look at the weak view, and moves what it says into the student's view."""

    @configurable
    def __init__(
        self,
        *,
        teacher: PromptDAS,
        report: Callable[[dict[str, Tensor]], None],
        use: frozenset[str],
        use_prompts: bool,
        suppression_radius: float,
        peaks: dict[str, Any],
        density_ignore: float,
        pixel_confidence: float,
        image_confidence: float,
        contrastive: dict[str, Any],
    ) -> None:
        """
        Args:
            report: is given metrics, scalars on the teacher's device, by name.
            use: which target losses the student computes: "points", "masks", "contrastive".
            use_prompts: whether teacher and student get prompts on target images.
            suppression_radius: pseudo points closer than this to a sparse point are dropped, in pixels.
            peaks: keyword arguments of :func:`prompt_das.ops.points.find_peaks`.
            density_ignore: where the teacher's density is above this and no point is near, it teaches nothing.
            pixel_confidence: pixels where max(p, 1 - p) is below are ignored.
            image_confidence: the share of pixels at or above it is the weight of an image.
            contrastive: keyword arguments of :func:`sample_contrastive_points`.
        """
        self.teacher = teacher
        self.report = report
        self.use = use
        self.use_prompts = use_prompts
        self.suppression_radius = suppression_radius
        self.peaks = peaks
        self.density_ignore = density_ignore
        self.pixel_confidence = pixel_confidence
        self.image_confidence = image_confidence
        self.contrastive = contrastive

    @classmethod
    def from_config(cls, cfg: CfgNode, teacher: PromptDAS, report: Callable[[dict[str, Tensor]], None]) -> dict:
        node = cfg.DOMAIN_ADAPT
        switches = {
            "points": node.USE_POINT_PSEUDO_LABELS,
            "masks": node.USE_MASK_PSEUDO_LABELS,
            "contrastive": node.USE_CONTRASTIVE,
        }
        return {
            "teacher": teacher,
            "report": report,
            "use": frozenset(name for name, on in switches.items() if on),
            "use_prompts": node.USE_PROMPTS,
            "suppression_radius": cfg.MODEL.CENTER_HEAD.SIGMA,
            "peaks": {"threshold": node.POINTS.THRESHOLD, "kernel": node.POINTS.KERNEL, "top_k": node.POINTS.TOP_K},
            "density_ignore": node.POINTS.IGNORE_THRESHOLD,
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
    def predict_teacher(
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
            density = teacher.decode(embedding, sparse, shown, size, with_mask=False).density
            points, valid, _ = find_peaks(density, **self.peaks)
            valid = suppress_near(points, valid, sparse, sparse_valid, self.suppression_radius)
        else:
            density, points, valid = images[:, 0] * 0, sparse[:, :0], sparse_valid[:, :0]
        prompts = torch.cat([sparse, points], dim=1)
        shown = torch.cat([sparse_valid, valid], dim=1) & self.use_prompts
        probability = teacher.decode(embedding, prompts, shown, size, with_density=False).logits.sigmoid()
        return probability, density, points, valid

    def __call__(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Samples of :class:`~prompt_das.data.dataset_mapper.TargetMapper` -> the student's labelled inputs."""
        device = self.teacher.device
        sparse, sparse_valid = pad(samples, "sparse_points", device)
        probability, density, peaks, peaks_valid = self.predict_teacher(
            stack(samples, "weak_image", device), sparse, sparse_valid
        )
        self.report(
            {
                "pseudo/points": peaks_valid.sum(1).float().mean(),
                "pseudo/foreground": (probability > 0.5).float().mean(),
            }
        )

        # From here on all is in the student's view.
        moved_sparse, _ = pad(samples, "strong_sparse_points", device)
        moved_peaks = warp_points(peaks, stack(samples, "forward_pixel_map", device))
        points = torch.cat([moved_sparse, moved_peaks], dim=1)
        points_valid = torch.cat([sparse_valid, peaks_valid], dim=1)
        noise = stack(samples, "noise", device).long()
        shown = random_subset(points, points_valid & self.use_prompts, stack(samples, "prompt_ratio", device), noise)
        sources = stack(samples, "inverse_pixel_map", device).long()
        probability, density = (
            one.flatten(1).gather(1, sources.flatten(1)).view_as(sources) for one in (probability, density)
        )
        confidence = torch.maximum(probability, 1 - probability)
        labels = {
            "mask": (probability > 0.5).to(torch.uint8),
            "pixel_valid": confidence >= self.pixel_confidence,
            "image_weight": (confidence >= self.image_confidence).float().mean((1, 2)),
            "density_ignore": density > self.density_ignore,
            "points": points,
            "points_valid": points_valid,
            "prompts": points,
            "prompts_valid": shown,
        }
        self.report({"pseudo/confident_pixels": labels["image_weight"].mean()})
        contrastive = {}
        if "contrastive" in self.use:
            contrastive = {"positives": moved_sparse, "positives_valid": sparse_valid}
            contrastive |= sample_contrastive_points(probability, noise, **self.contrastive)
        return [
            {
                **{name: x[name] for name in ("domain", "image_id", "box", "image")},
                **{name: of_all[i] for name, of_all in labels.items()},
                "use": self.use,
                "contrastive": {name: of_all[i] for name, of_all in contrastive.items()},
            }
            for i, x in enumerate(samples)
        ]


def point_to_index(points: Tensor, height: int, width: int) -> Tensor:
    """Points (B, N, 2) -> indices of their pixels, in raster order; of those outside the nearest one."""
    column, row = points.floor().long().unbind(-1)
    return row.clamp(0, height - 1) * width + column.clamp(0, width - 1)


def warp_points(points: Tensor, forward_pixel_map: Tensor) -> Tensor:
    """Points (B, N, 2) at pixel centres -> where ``forward_pixel_map`` (B, H, W, 2) takes these pixels."""
    index = point_to_index(points, *forward_pixel_map.shape[1:3])
    return forward_pixel_map.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 2))


def random_subset(points: Tensor, valid: Tensor, share: Tensor, noise: Tensor) -> Tensor:
    """A random subset of each image's points, of a size that is uniform in {0 ... n} if ``share`` is in [0, 1).

    Args:
        points, valid: (B, N, 2) and (B, N) bool.
        share: (B,): decides about the size.
        noise: (B, H, W) random integers: those of their pixels decide about the points, so that it does not matter
            what else is in the batch.

    Returns:
        (B, N) bool.
    """
    key = noise.flatten(1).gather(1, point_to_index(points, *noise.shape[1:]))
    key = key.masked_fill(~valid, torch.iinfo(torch.int64).max)
    rank = key.argsort(dim=1, stable=True).argsort(dim=1)
    size = (share * (valid.sum(1) + 1)).floor()
    return valid & (rank < size[:, None])


class PseudoLabelLoader:
    """Wraps a loader of (source, target) samples: yields one flat list per iteration, its target part labelled."""

    def __init__(self, loader: Iterable, labeler: PseudoLabeler) -> None:
        self.loader = loader
        self.labeler = labeler

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for source, target in self.loader:
            yield source + self.labeler(target) if target else source
