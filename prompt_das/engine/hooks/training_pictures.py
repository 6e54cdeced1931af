"""Pictures of what the student is trained on, for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from prompt_das.adaptation.mean_teacher import unwrap
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.structures import collate
from prompt_das.ops.batching import valid_points
from prompt_das.ops.points import render_density
from prompt_das.utils.visualization import draw_density, draw_overlay, tile

import numpy as np
import torch
from detectron2.engine import HookBase
from torch import nn


class TrainingPictures(HookBase):
    """Puts a picture of the batch into the event storage, every ``period`` iterations; 0 = never."""

    def __init__(self, student: nn.Module, period: int) -> None:
        self.student = cast(PromptDAS, unwrap(student))
        self.period = period
        self.batch: Sequence[Mapping[str, Any]] = ()
        self.handle: Any = None

    def before_step(self) -> None:
        if self.period > 0 and self.trainer.iter % self.period == 0:
            self.handle = self.student.register_forward_pre_hook(self.keep_batch)

    def keep_batch(self, student: nn.Module, args: tuple) -> None:
        self.batch = args[0]

    def after_step(self) -> None:
        if self.handle is None:
            return
        self.handle.remove()
        self.handle = None
        picture = draw_training_batch(self.student, self.batch)
        self.trainer.storage.put_image("training", picture.transpose(2, 0, 1))
        self.batch = ()


@torch.no_grad()
def draw_training_batch(student: PromptDAS, samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """One row per crop: prompts, (pseudo-)label, predicted mask, density target, predicted density -> (H, W, 3) RGB."""
    batch = collate(samples, student.device, contrastive=False)
    prediction = student.decode(student.encode(batch.images), *batch.prompts, batch.size)
    masks = (prediction.logits > 0).cpu().numpy()
    densities = prediction.density.cpu().numpy()
    targets = render_density(*batch.points, batch.size, student.criterion.density_sigma).cpu().numpy()
    titled = []
    for sample, mask, density, target in zip(samples, masks, densities, targets, strict=True):
        image = torch.as_tensor(sample["image"])[0].cpu().numpy()
        label_name = "label" if sample["domain"] == "source" else "pseudo-label"
        label = torch.as_tensor(sample["mask"]).cpu().numpy() > 0
        titled += [
            (f"{sample['domain']}, prompts", draw_overlay(image, points=valid_points(sample, "prompts"))),
            (label_name, draw_overlay(image, label, valid_points(sample, "points"))),
            ("prediction", draw_overlay(image, mask)),
            ("density target", draw_density(target, image)),
            ("density", draw_density(density, image)),
        ]
    titles, pictures = zip(*titled, strict=True)
    return tile(list(pictures), list(titles), columns=5)
