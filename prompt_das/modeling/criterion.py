"""The training criterion: the losses of a batch and their weights (Prompt-DAS, Sec. 2.2-2.4)."""

from __future__ import annotations

from prompt_das.modeling.losses import center, contrastive_loss, detection_loss, dice_loss, segmentation_loss
from prompt_das.modeling.structures import Prediction, TrainingBatch
from prompt_das.ops.points import render_density

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

TARGET_LOSSES = frozenset(("points", "masks", "contrastive"))
NEAR_A_POINT = 0.05  # rendered density: closer than 2.4 sigma


class PromptDASCriterion:
    """L_seg and L_det of source and target images, and L_pcl of target images."""

    @configurable
    def __init__(
        self,
        *,
        target_losses: frozenset[str],
        density_sigma: float,
        detection_weight: float,
        contrastive_weight: float,
        contrastive_temperature: float,
        contrastive_centered: bool = False,
        dice_weight: float = 0.0,
    ) -> None:
        """
        Args:
            target_losses: those to compute on target images: "points" (L_det), "masks" (L_seg), "contrastive" (L_pcl).
            density_sigma: standard deviation of the Gaussian at a center point, in pixels of the crops.
            detection_weight, contrastive_weight: lambda_det and lambda_pcl of the total loss.
            contrastive_temperature: divisor of the cosine similarities.
            dice_weight: of a soft Dice loss beside L_seg; 0 in the paper.
            contrastive_centered: whether the mean of a batch's embeddings is subtracted first.

        Raises:
            ValueError: an unknown name in ``target_losses``.
        """
        if not target_losses <= TARGET_LOSSES:
            raise ValueError(f"target_losses are {sorted(target_losses)}; choose from {sorted(TARGET_LOSSES)}")
        self.target_losses = target_losses
        self.density_sigma = density_sigma
        self.detection_weight = detection_weight
        self.dice_weight = dice_weight
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.contrastive_centered = contrastive_centered

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            "target_losses": enabled_target_losses(cfg),
            "density_sigma": cfg.MODEL.CENTER_HEAD.SIGMA,
            "dice_weight": cfg.MODEL.LOSS.DICE_WEIGHT,
            "detection_weight": cfg.MODEL.LOSS.DETECTION_WEIGHT,
            "contrastive_weight": cfg.MODEL.LOSS.CONTRASTIVE_WEIGHT,
            "contrastive_temperature": cfg.MODEL.LOSS.CONTRASTIVE_TEMPERATURE,
            "contrastive_centered": cfg.MODEL.LOSS.CONTRASTIVE_CENTERED,
        }

    @property
    def uses_contrastive(self) -> bool:
        return "contrastive" in self.target_losses

    def __call__(self, prediction: Prediction, batch: TrainingBatch) -> dict[str, Tensor]:
        """Compute the weighted losses, scalars by name; those of source or target images only if the batch has some."""
        rendered = render_density(*batch.points, batch.size, self.density_sigma)
        source, target = slice(0, batch.num_source), slice(batch.num_source, None)
        losses = {}
        if batch.num_source:
            mask = (prediction.logits[source], batch.mask[source])
            losses["loss_seg_source"] = segmentation_loss(*mask)
            if self.dice_weight:
                losses["loss_dice_source"] = self.dice_weight * dice_loss(*mask)
            losses["loss_det_source"] = self.detection_weight * detection_loss(
                prediction.density[source], rendered[source]
            )
        if batch.pixel_valid is not None and "masks" in self.target_losses:
            pseudo_mask = (prediction.logits[target], batch.mask[target], batch.pixel_valid, batch.image_weight)
            losses["loss_seg_target"] = segmentation_loss(*pseudo_mask)
            if self.dice_weight:
                losses["loss_dice_target"] = self.dice_weight * dice_loss(*pseudo_mask)
        if batch.density_ignore is not None and "points" in self.target_losses:
            counted = ~batch.density_ignore | (rendered[target] > NEAR_A_POINT)
            losses["loss_det_target"] = self.detection_weight * detection_loss(
                prediction.density[target], rendered[target], counted
            )
        if batch.contrastive and self.uses_contrastive:
            losses["loss_pcl"] = self.contrastive_weight * self._contrastive_loss(prediction.contrastive, batch)
        return losses

    def _contrastive_loss(self, embeddings: Tensor, batch: TrainingBatch) -> Tensor:
        """Embeddings (B', M, D) of positives, queries and negatives, one after the other -> L_pcl."""
        valid = [group.valid for group in batch.contrastive]
        if self.contrastive_centered:
            embeddings = center(embeddings, torch.cat(valid, dim=1))
        positives, queries, negatives = embeddings.split([mask.shape[1] for mask in valid], dim=1)
        return contrastive_loss(
            positives, valid[0], queries, valid[1], negatives, valid[2], self.contrastive_temperature
        )


def enabled_target_losses(cfg: CfgNode) -> frozenset[str]:
    """The losses that ``cfg`` enables on target images, as in the paper's ablation (Table 2)."""
    node = cfg.DOMAIN_ADAPT
    switches = {
        "points": node.USE_POINT_PSEUDO_LABELS,
        "masks": node.USE_MASK_PSEUDO_LABELS,
        "contrastive": node.USE_CONTRASTIVE,
    }
    return frozenset(name for name, on in switches.items() if on)
