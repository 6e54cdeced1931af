"""Pseudo-labels: the teacher labels the weak view, the student trains on the strong one (Prompt-DAS, Sec. 2.2-2.4).

Labels are added to the samples before the student gets them (:class:`PseudoLabelLoader`), so the training step itself
is Detectron2's. They are made on the teacher's device, batch by batch, and no GPU waits for the host: all random
numbers come with the samples.

Shape legend: B images; N points, padded with a validity mask; K pseudo points; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from prompt_das.adaptation.contrastive_sampling import sample_contrastive_points
from prompt_das.adaptation.point_pixels import random_subset, sparse_recall, warp_points
from prompt_das.adaptation.pseudo_masks import confirmed_components, supervise_near_clicks
from prompt_das.data.samples import ContrastivePoints, LabeledSample, SourceSample, TargetSample, TrainingSample
from prompt_das.modeling.criterion import enabled_target_losses
from prompt_das.modeling.cuda_graphs import CudaGraphs, uses_cuda_graphs
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.postprocessing import confidence_at_outline
from prompt_das.modeling.structures import Prediction
from prompt_das.ops.batching import pad, stack
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD
from prompt_das.ops.points import NEGATIVE, POSITIVE, find_peaks, suppress_near

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

RECALL_PERIOD = 10  # iterations


class PseudoLabeler:
    """The teacher predicts the weak view of target samples; its predictions are warped into the strong view."""

    @configurable
    def __init__(
        self,
        *,
        teacher: PromptDAS,
        put_metrics: Callable[[dict[str, Tensor]], None],
        target_losses: frozenset[str],
        use_prompts: bool,
        suppression_radius: float,
        peaks: dict[str, Any],
        density_ignore: float,
        require_peak: bool,
        pixel_confidence: float,
        image_confidence: float,
        contrastive: dict[str, Any],
        prompt_with_peaks: bool = True,
        min_confidence: float = 0.0,
        supervision_radius: float = 0.0,
        cuda_graphs: bool = False,
        recall_period: int = RECALL_PERIOD,
        iteration: Callable[[], int] = lambda: 0,
    ) -> None:
        """
        Args:
            put_metrics: called with metrics by name, scalars on the teacher's device.
            target_losses: the losses that the student is trained with, see PromptDASCriterion.
            use_prompts: whether teacher and student are prompted on target images.
            prompt_with_peaks: whether the peaks prompt the teacher's mask, beside the sparse points.
            suppression_radius: pseudo points closer than this to a sparse point are dropped, in pixels.
            peaks: keyword arguments of :func:`prompt_das.ops.points.find_peaks`.
            density_ignore: where the teacher's density is above this, it counts only near a point.
            require_peak: whether components of the teacher's mask without a peak, or a sparse point, are background.
            min_confidence: so are components whose highest probability, as predicted, is below.
            pixel_confidence: pixels with a confidence max(p, 1 - p) below it are ignored.
            image_confidence: the fraction of pixels with at least this confidence is the weight of an image.
            contrastive: keyword arguments of :func:`sample_contrastive_points`.
            supervision_radius: of the discs around clicks whose label is certain, in pixels; 0: there are none.
            cuda_graphs: whether the teacher's passes are replayed on a GPU (:class:`CudaGraphs`).
            recall_period: iterations between two measurements of :func:`sparse_recall`; 0: none.
            iteration: gives the number of the current one.
        """
        self.teacher = teacher
        self.put_metrics = put_metrics
        self.target_losses = target_losses
        self.use_prompts = use_prompts
        self.suppression_radius = suppression_radius
        self.peaks = peaks
        self.density_ignore = density_ignore
        self.require_peak = require_peak
        self.prompt_with_peaks = prompt_with_peaks
        self.min_confidence = min_confidence
        self.pixel_confidence = pixel_confidence
        self.image_confidence = image_confidence
        self.contrastive = contrastive
        self.supervision_radius = supervision_radius
        self.graphs = CudaGraphs(cuda_graphs)
        self.recall_period = recall_period
        self.iteration = iteration

    @classmethod
    def from_config(cls, cfg: CfgNode, teacher: PromptDAS, put_metrics: Callable[[dict[str, Tensor]], None]) -> dict:
        node = cfg.DOMAIN_ADAPT
        target_losses = enabled_target_losses(cfg)
        return {
            "teacher": teacher,
            "put_metrics": put_metrics,
            "target_losses": target_losses,
            "use_prompts": node.USE_PROMPTS,
            "suppression_radius": cfg.MODEL.CENTER_HEAD.SIGMA,
            "peaks": {"threshold": node.POINTS.THRESHOLD, "kernel": node.POINTS.KERNEL, "top_k": node.POINTS.TOP_K},
            "density_ignore": node.POINTS.IGNORE_THRESHOLD,
            "cuda_graphs": uses_cuda_graphs(cfg),
            "supervision_radius": node.POINTS.SUPERVISION_RADIUS,
            # Without pseudo points no density is predicted, and no peak could confirm anything.
            "require_peak": node.MASKS.REQUIRE_PEAK and "points" in target_losses,
            "prompt_with_peaks": node.POINTS.PROMPT_TEACHER,
            "min_confidence": confidence_at_outline(
                node.MASKS.MIN_CONFIDENCE, cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY
            ),
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
        self, images: Tensor, sparse: Tensor, sparse_valid: Tensor, negative: Tensor, negative_valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two passes of the decoder on one pass of the encoder, and now and then one for :func:`sparse_recall`.

        Args:
            images: (B, 1, H, W) weak views; sparse, sparse_valid: (B, N, 2), (B, N); and so for the negative clicks.

        Returns:
            foreground probability (B, H, W); density (B, H, W); the pseudo points (B, K, 2), (B, K), none near a
            sparse point or a negative click.
        """
        size = (images.shape[-2], images.shape[-1])

        def decode(points: Tensor, valid: Tensor, **heads: bool) -> Prediction:
            return self.graphs(self.teacher.decode, embedding, points, valid, image_size=size, **heads)

        prompted = sparse_valid & self.use_prompts
        embedding = self.graphs(self.teacher.encode, images)
        if "points" in self.target_losses:
            density = decode(sparse, prompted, with_mask=False).density
            points, valid, _ = find_peaks(density, **self.peaks)
            for clicks, clicks_valid in ((sparse, sparse_valid), (negative, negative_valid)):
                valid = suppress_near(points, valid, clicks, clicks_valid, self.suppression_radius)
        else:
            density, points, valid = images[:, 0] * 0, sparse[:, :0], sparse_valid[:, :0]
        if self.recall_period and self.iteration() % self.recall_period == 0:
            # Without prompts: a teacher that follows clicks finds whatever it is shown.
            unprompted = decode(sparse[:, :0], prompted[:, :0], with_density=False).logits
            self.put_metrics({"pseudo/sparse_recall": sparse_recall(unprompted.sigmoid(), sparse, sparse_valid)})
        positive = F.pad(torch.cat([sparse, points], dim=1), (0, 1), value=POSITIVE)
        prompts = torch.cat([positive, F.pad(negative, (0, 1), value=NEGATIVE)], dim=1)
        prompted = torch.cat([sparse_valid, valid & self.prompt_with_peaks, negative_valid], dim=1) & self.use_prompts
        probability = decode(prompts, prompted, with_density=False).logits.sigmoid()
        return probability, density, points, valid

    def __call__(self, samples: Sequence[TargetSample]) -> list[LabeledSample]:
        """Pseudo-labels for target samples, in their strong view."""
        device = self.teacher.device
        sparse, sparse_valid = pad(samples, "sparse_points", device)
        negative, negative_valid = pad(samples, "negative_clicks", device)
        probability, density, peaks, peaks_valid = self.predict_teacher(
            stack(samples, "weak_image", device), sparse, sparse_valid, negative, negative_valid
        )
        self.put_metrics(
            {
                "pseudo/points": peaks_valid.sum(1).float().mean(),
                "pseudo/foreground": (probability > FOREGROUND_THRESHOLD).float().mean(),
            }
        )

        # From here on everything is in the strong view.
        strong_sparse, _ = pad(samples, "strong_sparse_points", device)
        forward_map = stack(samples, "forward_pixel_map", device)
        strong_peaks = warp_points(peaks, forward_map)
        points = torch.cat([strong_sparse, strong_peaks], dim=1)
        points_valid = torch.cat([sparse_valid, peaks_valid], dim=1)
        noise = stack(samples, "noise", device).long()
        prompts_valid = random_subset(
            points, points_valid & self.use_prompts, stack(samples, "prompt_ratio", device), noise
        )
        index = stack(samples, "inverse_pixel_map", device).long()
        probability, density = (
            weak.flatten(1).gather(1, index.flatten(1)).view_as(index) for weak in (probability, density)
        )
        confidence = torch.maximum(probability, 1 - probability)
        mask = (probability > FOREGROUND_THRESHOLD).to(torch.uint8)
        pixel_valid = confidence >= self.pixel_confidence
        image_weight = (confidence >= self.image_confidence).float().mean((1, 2))
        evidence = []
        if self.require_peak:  # the two heads err in different places: a false component mostly has no peak
            evidence.append(density >= self.peaks["threshold"])
        if self.min_confidence:
            evidence.append(probability >= self.min_confidence)
        if evidence:
            mask *= confirmed_components(mask > 0, evidence, strong_sparse, sparse_valid)
        if self.supervision_radius:
            strong_negative = warp_points(negative, forward_map)
            mask, pixel_valid = supervise_near_clicks(
                mask, pixel_valid, strong_sparse, sparse_valid, strong_negative, negative_valid, self.supervision_radius
            )
        density_ignore = density > self.density_ignore
        clicks = F.pad(points, (0, 1), value=POSITIVE)
        self.put_metrics({"pseudo/confident_pixels": image_weight.mean()})
        contrastive: dict[str, Tensor] = {}
        if "contrastive" in self.target_losses:
            contrastive = {"positives": strong_sparse, "positives_valid": sparse_valid}
            contrastive |= sample_contrastive_points(probability, noise, **self.contrastive)
        return [
            {
                "domain": sample["domain"],
                "image_id": sample["image_id"],
                "box": sample["box"],
                "image": sample["image"],
                "mask": mask[i],
                "pixel_valid": pixel_valid[i],
                "image_weight": image_weight[i],
                "density_ignore": density_ignore[i],
                "points": points[i],
                "points_valid": points_valid[i],
                "prompts": clicks[i],
                "prompts_valid": prompts_valid[i],
                "contrastive": cast(ContrastivePoints, {name: value[i] for name, value in contrastive.items()}),
            }
            for i, sample in enumerate(samples)
        ]


class PseudoLabelLoader:
    """Wraps a loader of (source samples, target samples): yields one list per iteration, target samples labeled."""

    def __init__(self, loader: Iterable[tuple[list[SourceSample], list[TargetSample]]], labeler: PseudoLabeler) -> None:
        self.loader = loader
        self.labeler = labeler

    def __iter__(self) -> Iterator[list[TrainingSample]]:
        for source, target in self.loader:
            yield [*source, *(self.labeler(target) if target else ())]
