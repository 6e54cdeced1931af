"""Optimizer and learning rate."""

from __future__ import annotations

from prompt_das.engine.solver import ClippedAdamW, PolynomialWithFloor, build_lr_scheduler, build_optimizer

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


def learning_rates(cfg: CfgNode) -> list[float]:
    """The learning rate of every iteration of a run."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def adapt(cfg: CfgNode, burn_in: int, max_iter: int) -> CfgNode:
    cfg.DOMAIN_ADAPT.ENABLED = True
    cfg.DOMAIN_ADAPT.BURN_IN_ITERS, cfg.SOLVER.MAX_ITER = burn_in, max_iter
    return cfg


# ---- learning rate


def test_polynomial_decay_by_hand(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER = 4
    expected = [1e-4, 1e-4 * 0.75**0.9, 1e-4 * 0.5**0.9, 1e-4 * 0.25**0.9]
    assert learning_rates(tiny_cfg) == pytest.approx(expected)


def test_the_learning_rate_has_a_floor(tiny_cfg: CfgNode) -> None:
    """1e-6, a hundredth of the base: reached when (1 - where) ** 0.9 is 0.01, after 99.4 % of the run."""
    tiny_cfg.SOLVER.MAX_ITER = 1000
    rates = learning_rates(tiny_cfg)
    assert rates[993] == pytest.approx(1e-4 * 0.007**0.9)
    assert rates[995:] == pytest.approx([1e-6] * 5)
    assert PolynomialWithFloor(0.9, 0.01)(1.0) == 0.01


def test_adaptation_starts_again_from_the_base(tiny_cfg: CfgNode) -> None:
    """The run of both stages has the rates of the two runs in a row."""
    rates = learning_rates(adapt(tiny_cfg, 4, 10))
    assert rates == pytest.approx(
        [1e-4 * (1 - i / 4) ** 0.9 for i in range(4)] + [1e-4 * (1 - i / 6) ** 0.9 for i in range(6)]
    )


@pytest.mark.parametrize(("burn_in", "max_iter"), [(0, 5), (5, 5)])
def test_a_run_of_one_stage_decays_once(tiny_cfg: CfgNode, burn_in: int, max_iter: int) -> None:
    rates = learning_rates(adapt(tiny_cfg, burn_in, max_iter))
    assert rates == pytest.approx([1e-4 * (1 - i / 5) ** 0.9 for i in range(5)])


def test_burn_in_means_nothing_without_adaptation(tiny_cfg: CfgNode) -> None:
    adapt(tiny_cfg, 2, 5).DOMAIN_ADAPT.ENABLED = False
    assert learning_rates(tiny_cfg) == pytest.approx([1e-4 * (1 - i / 5) ** 0.9 for i in range(5)])


def test_each_stage_warms_up(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.WARMUP_ITERS, tiny_cfg.SOLVER.WARMUP_FACTOR = 2, 0.1
    rates = learning_rates(adapt(tiny_cfg, 4, 10))
    stages = []
    for length in (4, 6):
        peak = (1 - 2 / length) ** 0.9  # where the line from a tenth of the base meets the polynomial
        stages += [0.1, (0.1 + peak) / 2, *((1 - i / length) ** 0.9 for i in range(2, length))]
    assert rates == pytest.approx([1e-4 * factor for factor in stages])


def test_a_short_run_warms_up_for_half_of_its_time(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.WARMUP_ITERS, tiny_cfg.SOLVER.WARMUP_FACTOR, tiny_cfg.SOLVER.MAX_ITER = 100, 0.0, 4
    peak = 0.5**0.9
    assert learning_rates(tiny_cfg) == pytest.approx([1e-4 * f for f in (0, peak / 2, peak, 0.25**0.9)])


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3))
def test_no_length_of_the_stages_breaks_the_schedule(burn_in: int, adaptation: int, warmup: int) -> None:
    """Rounding may put the last step beyond the end, where a power of a negative number would be complex."""
    cfg = CfgNode({"SOLVER": SOLVER | {"WARMUP_ITERS": warmup, "MAX_ITER": burn_in + adaptation}})
    cfg.MODEL = CfgNode({"WEIGHTS": ""})
    cfg.DOMAIN_ADAPT = CfgNode({"ENABLED": True, "BURN_IN_ITERS": burn_in})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    multiplier = build_lr_scheduler(cfg, optimizer)._multiplier
    for iteration in (0, burn_in - 1, burn_in, burn_in + adaptation - 1, burn_in + adaptation):
        assert 0 < multiplier(iteration / (burn_in + adaptation)) <= 1 + 1e-9


SOLVER = {
    "LR_SCHEDULER_NAME": "PolynomialWithFloor",
    "BASE_LR": 1e-4,
    "MIN_LR": 1e-6,
    "POLY_POWER": 0.9,
    "WARMUP_FACTOR": 0.1,
    "WARMUP_METHOD": "linear",
}


def test_detectron2_s_own_schedules_can_be_chosen(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.LR_SCHEDULER_NAME, tiny_cfg.SOLVER.STEPS, tiny_cfg.SOLVER.MAX_ITER = "WarmupMultiStepLR", (2,), 4
    assert learning_rates(tiny_cfg) == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


# ---- optimizer


def two_parameters() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))


def test_the_norm_of_the_whole_gradient_is_clipped() -> None:
    """(3, 4), norm 5, becomes (0.6, 0.8): the direction is kept. Clipping each by itself would give (1, 1)."""
    a, b = two_parameters()
    optimizer = ClippedAdamW([{"params": [a]}, {"params": [b]}], lr=0.1, max_norm=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    # AdamW's first moment after one step is 0.1 times the gradient that it got
    assert optimizer.state[a]["exp_avg"].item() == pytest.approx(0.1 * 0.6)
    assert optimizer.state[b]["exp_avg"].item() == pytest.approx(0.1 * 0.8)


def test_a_small_gradient_is_not_enlarged() -> None:
    a, _ = two_parameters()
    optimizer = ClippedAdamW([a], lr=0.1, max_norm=1.0)
    a.grad = torch.tensor([0.5])
    optimizer.step()
    assert optimizer.state[a]["exp_avg"].item() == pytest.approx(0.05)


def test_clipping_can_be_switched_off(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(tiny_cfg, model)
    model.weight.grad, model.bias.grad = torch.tensor([[300.0]]), torch.tensor([0.0])
    optimizer.step()
    assert optimizer.state[model.weight]["exp_avg"].item() == pytest.approx(30)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("max_norm", [1.0, None])
@pytest.mark.parametrize("bad_value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(bad_value: float, max_norm: float | None, fused: bool) -> None:
    """Neither the parameters, weight decay included, nor the moments; the next step is as if it had not been.

    Without fused kernels is a run resumed from an old checkpoint."""
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = ClippedAdamW([a, b], lr=0.1, weight_decay=0.5, max_norm=max_norm, fused=fused)
    a.grad, b.grad = torch.tensor([bad_value]), torch.tensor([1.0])
    optimizer.step()
    assert optimizer.skipped.item() == 1
    assert (a.item(), b.item()) == (1, 1)
    assert not any(value.any() for state in optimizer.state.values() for value in state.values())
    a.grad, b.grad = torch.tensor([0.1]), torch.tensor([0.1])
    optimizer.step()
    assert optimizer.skipped.item() == 0
    assert optimizer.state[a]["step"].item() == 1
    assert optimizer.state[a]["exp_avg"].item() == pytest.approx(0.01)
    assert a.item() < 1


def test_norms_biases_and_embeddings_do_not_decay(tiny_cfg: CfgNode) -> None:
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert decay.keys() == set(named.values())  # each parameter once
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)
    kept = {name for name, p in named.items() if decay[p] == 0}
    assert kept == {
        name
        for name, p in named.items()
        if name.endswith(".bias") or "norm" in name or name in ("backbone.vit.pos_embed", "decoder.mask_token")
        or p.ndim == 1  # the layer norm between the transposed convolutions and the group norms have numbers for names
    }  # fmt: skip
    assert {decay[p] for name, p in named.items() if name not in kept} == {0.01}
    assert "backbone.vit.blocks.0.attn.qkv.weight" not in kept
    assert "decoder.upsampling.0.weight" not in kept


def test_the_solver_s_keys_reach_the_optimizer(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.BASE_LR, tiny_cfg.SOLVER.WEIGHT_DECAY, tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5, 0.25, 3.0
    optimizer = build_optimizer(tiny_cfg, nn.Linear(2, 2))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.max_norm == 3
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.25), (0.5, 0.0)]


def test_frozen_parameters_are_left_out(tiny_cfg: CfgNode) -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    optimizer = build_optimizer(tiny_cfg, model)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [model.bias]


def test_detectron2_s_other_ways_of_clipping_are_refused(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    with pytest.raises(ValueError, match="CLIP_TYPE is 'value'; prompt_das has only 'full_model'"):
        build_optimizer(tiny_cfg, nn.Linear(1, 1))
