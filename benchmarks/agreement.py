"""Whether a device computes what the processor does: the same weights and inputs through both."""

from __future__ import annotations

import copy
from typing import Any

from prompt_das.modeling import PromptDAS

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor

from .ceilings import tf32_allowed
from .model import POINTS_PER_IMAGE, training_batch

LIMIT = 1e-3  # of ‖out − ref‖ / ‖ref‖ in float32 without TF32, which is right to 1e-5 or better
GRADIENT_CROP = 192  # pixels at most: the processor takes a few seconds for an iteration of such crops


def relative_error(out: Tensor, ref: Tensor) -> float:
    """‖out − ref‖ / ‖ref‖ over all elements; NaN if anything is."""
    out, ref = out.detach().double().cpu(), ref.detach().double().cpu()
    return float((out - ref).norm() / ref.norm().clamp(min=1e-30))


def compare(cfg: CfgNode, device: torch.device, seed: int) -> dict[str, Any]:
    """Relative errors of both heads, of every loss and of the gradient, in float32 (TF32 off) and in bfloat16.

    The reference is the processor's float32. Heads are compared at the config's crop, losses and gradient on smaller
    ones. ``agrees`` says whether every float32 error is at most ``LIMIT``; NaN is not.
    """
    torch.manual_seed(seed)
    reference = PromptDAS(cfg).train()
    reference.precision = "float32"
    return compare_networks(cfg, reference, copy.deepcopy(reference).to(device))


def compare_networks(cfg: CfgNode, reference: PromptDAS, other: PromptDAS) -> dict[str, Any]:
    """As :func:`compare`, of two networks that should be one."""
    side = min(cfg.INPUT.CROP_SIZE, GRADIENT_CROP)
    small = cfg.clone()
    small.defrost()
    small.INPUT.CROP_SIZE = side
    batch = training_batch(small)
    image = 255 * torch.rand(1, 1, cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SIZE)
    points = cfg.INPUT.CROP_SIZE * torch.rand(1, POINTS_PER_IMAGE, 2)

    expected = _outputs(reference, image, points, batch)
    errors: dict[str, dict[str, float]] = {}
    for precision in ("float32", "bfloat16"):
        other.precision = precision
        with tf32_allowed(False):
            found = _outputs(other, image, points, batch)
        errors[precision] = {name: relative_error(found[name], value) for name, value in expected.items()}
    return {
        "crop of the heads": cfg.INPUT.CROP_SIZE,
        "crop of losses and gradient": side,
        "limit": LIMIT,
        "errors": errors,
        "agrees": all(error <= LIMIT for error in errors["float32"].values()),
    }


def _outputs(model: PromptDAS, image: Tensor, points: Tensor, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    image, points = image.to(model.device), points.to(model.device)
    with torch.no_grad():
        valid = torch.ones(points.shape[:2], dtype=torch.bool, device=model.device)
        prediction = model.decode(model.encode(image), points, valid, (image.shape[-2], image.shape[-1]))
    model.zero_grad()
    with EventStorage(1):
        losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {"logits": prediction.logits, "density": prediction.density, **losses, "gradient": gradient}
