"""Optimizer and learning rate: AdamW with the norm of the whole gradient clipped, polynomial decay with a floor."""

from __future__ import annotations

from typing import Any

from prompt_das.config.schedule import burn_in_iters, num_iterations

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver.build import build_lr_scheduler as d2_build_lr_scheduler
from fvcore.common.param_scheduler import CompositeParamScheduler, ParamScheduler
from torch import Tensor, nn


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that clips the norm of the whole gradient first, and skips a step whose gradient is not finite.

    Detectron2's own clipping works parameter by parameter. ``skipped``: 1 if the last step was, else 0, on the
    device of the parameters. With ``fused``, torch's kernels read it there, so that a GPU need not wait for the host;
    without is a run that is resumed from a checkpoint of before.
    """

    skipped: Tensor

    def __init__(self, params: Any, *, max_norm: float | None = None, **kwargs: Any) -> None:
        super().__init__(params, **kwargs)
        self.max_norm = max_norm

    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, torch.inf if self.max_norm is None else self.max_norm)
        self.skipped = (~torch.isfinite(norm)).float()
        if self.param_groups[0]["fused"]:
            self.found_inf = self.skipped  # set by torch's own gradient scaler too, and read by the fused kernels
        elif self.skipped:
            return None
        return super().step(closure)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> ClippedAdamW:
    """AdamW from ``cfg.SOLVER``; norms, biases, embeddings and the mask token are not decayed."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; prompt_das has only 'full_model'")
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            embedding = name.endswith(("pos_embed", "cls_token", "mask_token"))
            (kept if parameter.ndim <= 1 or embedding else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
    return ClippedAdamW(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        max_norm=clip.CLIP_VALUE if clip.ENABLED else None,
        fused=True,
    )


class PolynomialWithFloor(ParamScheduler):
    """max((1 - where) ** power, floor), a factor of the base learning rate."""

    def __init__(self, power: float, floor: float) -> None:
        self.power = power
        self.floor = floor

    def __call__(self, where: float) -> float:
        # Rounding may put the last step a hair beyond 1, and a power of a negative number is complex.
        return max(max(1 - where, 0.0) ** self.power, self.floor)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """One polynomial for burn-in and one for adaptation, each with its warm-up: as two runs would."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "PolynomialWithFloor":
        return d2_build_lr_scheduler(cfg, optimizer)
    burn_in, total = burn_in_iters(cfg), num_iterations(cfg)

    def stage(iterations: int) -> ParamScheduler:
        decay = PolynomialWithFloor(solver.POLY_POWER, solver.MIN_LR / solver.BASE_LR)
        if not solver.WARMUP_ITERS:
            return decay
        return WarmupParamScheduler(
            decay,
            solver.WARMUP_FACTOR,
            min(solver.WARMUP_ITERS / iterations, 0.5),  # a short trial run warms up at most half of the time
            solver.WARMUP_METHOD,
        )

    lengths = [n for n in (burn_in, total - burn_in) if n]
    stages = [stage(n) for n in lengths]
    if len(stages) == 1:
        multiplier = stages[0]
    else:
        multiplier = CompositeParamScheduler(
            stages, lengths=[n / total for n in lengths], interval_scaling=["rescaled"] * len(stages)
        )
    return LRMultiplier(optimizer, multiplier, max_iter=total)
