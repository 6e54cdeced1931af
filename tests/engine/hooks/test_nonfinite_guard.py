"""A loss or gradient that is not finite is skipped, named, written; many consecutive ones stop the run."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import read_checkpoint
from prompt_das.data.build import SampleStream
from prompt_das.engine.hooks.nonfinite_guard import MAX_WRITTEN, propagate_nonfinite
from prompt_das.engine.trainer import PromptDASTrainer, build_trainer
from prompt_das_cli import main

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

pytestmark = pytest.mark.usefixtures("quiet_logging")


@pytest.fixture
def cfg(tiny_cfg: CfgNode, synthetic_data: Path) -> CfgNode:
    """Six iterations of two source and two target crops; its ``config.yaml`` is written."""
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TARGET = ("synthetic_source_train",), ("synthetic_target_train",)
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 6, 6
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DOMAIN_ADAPT.BURN_IN_ITERS = True, 0
    (Path(tiny_cfg.OUTPUT_DIR) / "config.yaml").write_text(tiny_cfg.dump())
    return tiny_cfg


@pytest.fixture
def bad_image(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let one pixel of some samples of a domain be infinite."""

    def spoil(domain: str, *numbers: int) -> None:
        ordinary = SampleStream.__getitem__

        def get(stream: SampleStream, n: int) -> dict[str, Any]:
            sample = ordinary(stream, n)
            if sample["domain"] == domain and n in numbers:
                sample["image"][0, 3, 4] = torch.inf
            return sample

        monkeypatch.setattr(SampleStream, "__getitem__", get)

    return spoil


@pytest.fixture
def bad_gradient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let one number of the gradient be NaN at some iterations, while the loss is fine."""

    def spoil(*iterations: int) -> None:
        ordinary = PromptDASTrainer.run_step

        def run_step(trainer: PromptDASTrainer) -> None:
            parameter = next(trainer.checkpointer.model.center_head.parameters())
            if trainer.iter in iterations:
                handle = parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), torch.nan))
            ordinary(trainer)
            if trainer.iter in iterations:
                handle.remove()

        monkeypatch.setattr(PromptDASTrainer, "run_step", run_step)

    return spoil


class Remember(HookBase):
    """Keeps the weights of student and teacher after each iteration."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Any]] = []

    def after_step(self) -> None:
        parts = {"model": self.trainer.checkpointer.model, "teacher": self.trainer.teacher}
        self.weights.append({name: copy.deepcopy(part.state_dict()) for name, part in parts.items()})


def train(cfg: CfgNode, remember: Remember | None = None) -> list[dict[str, Any]]:
    """The weights after all iterations."""
    torch.manual_seed(0)
    remember = remember or Remember()
    trainer = build_trainer(cfg)
    trainer.register_hooks([remember])
    trainer.resume_or_load(resume=False)
    trainer.train()
    return remember.weights


def moved(after: dict[str, Any], before: dict[str, Any], whose: str = "model") -> bool:
    assert all(value.isfinite().all() for value in after[whose].values())
    return any(not torch.equal(value, before[whose][name]) for name, value in after[whose].items())


def files(cfg: CfgNode) -> list[str]:
    return sorted(path.name for path in (Path(cfg.OUTPUT_DIR) / "bad_batches").glob("*"))


def test_an_infinite_loss_has_a_gradient_that_is_not_finite() -> None:
    """By itself it may have a finite one, and the step would be done. A good one is what it was, to the bit."""
    x = torch.tensor([1e30, 3.0], requires_grad=True)
    losses = {"bad": x[0] * 1e30, "good": x[1] * 0.1}
    assert torch.autograd.grad(losses["bad"], x, retain_graph=True)[0].isfinite().all()
    guarded = propagate_nonfinite(losses)
    assert torch.autograd.grad(guarded["bad"], x, retain_graph=True)[0].isnan().any()
    assert guarded["good"].item() == losses["good"].item()
    assert torch.equal(torch.autograd.grad(guarded["good"], x)[0], torch.tensor([0.0, 0.1]))


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_bad_crop_is_left_out_and_named(
    cfg: CfgNode, bad_image: Callable[..., None], caplog: pytest.LogCaptureFixture, domain: str
) -> None:
    """Sample 5 is the second one of iteration 2. Neither student nor teacher see it."""
    bad_image(domain, 5)
    with caplog.at_level(logging.WARNING):
        run = train(cfg)
    assert [moved(run[i], run[i - 1]) for i in range(1, 6)] == [True, False, True, True, True]
    assert moved(run[5], run[4], "teacher")
    assert files(cfg) == ["iteration_0000002_rank0.pth"]
    for text in ("Iteration 2 is skipped", "loss_seg", f"synthetic_{domain}_train/im", "crop (y0", "sample 5"):
        assert text in caplog.text
    assert caplog.text.count("is skipped") == 1


@pytest.mark.parametrize("iteration", [2, 5])
def test_a_bad_gradient_is_left_out_and_named(
    cfg: CfgNode, bad_gradient: Callable[..., None], caplog: pytest.LogCaptureFixture, iteration: int
) -> None:
    """The loss is finite. The host looks one step later, and after the last one too."""
    bad_gradient(iteration)
    with caplog.at_level(logging.WARNING):
        run = train(cfg)
    assert [i for i in range(1, 6) if not moved(run[i], run[i - 1])] == [iteration]
    assert f"Iteration {iteration} is skipped: a gradient is not finite" in caplog.text
    content = read_checkpoint(Path(cfg.OUTPUT_DIR) / "bad_batches" / f"iteration_000000{iteration}_rank0.pth")
    assert [x["domain"] for x in content["batch"]] == ["source", "source", "target", "target"]
    assert not moved(content, run[iteration - 1])  # the weights of then, not those of a step later


def test_a_batch_can_be_replayed(
    cfg: CfgNode,
    bad_image: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad_image("target", 5)
    train(cfg)
    main(["replay-batch", str(Path(cfg.OUTPUT_DIR) / "bad_batches" / files(cfg)[0])])
    printed = capsys.readouterr().out
    assert "target synthetic_target_train/im" in printed
    losses = dict(line.split() for line in printed.splitlines() if line.startswith("loss_"))
    assert losses["loss_det_target"] == "nan"
    assert losses["loss_det_source"] != "nan"
    assert "backbone.vit" in printed.splitlines()[-1]
    with pytest.raises(SystemExit, match=r"model_final\.pth is not the batch of a skipped step"):
        main(
            [
                "replay-batch",
                str(Path(cfg.OUTPUT_DIR) / "model_final.pth"),
                "--config-file",
                str(Path(cfg.OUTPUT_DIR) / "config.yaml"),
            ]
        )


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_many_consecutive_ones_stop_the_run(
    cfg: CfgNode, bad_image: Callable[..., None], bad_gradient: Callable[..., None], kind: str
) -> None:
    """Iterations 1, 2, 3 with two allowed for; one at a time, they may be as many as they like."""
    cfg.SOLVER.MAX_NONFINITE_STEPS = 3
    if kind == "loss":
        bad_image("source", 2, 4, 6)
    else:
        bad_gradient(1, 2, 3)
    remember = Remember()
    with pytest.raises(FloatingPointError, match=r"3 consecutive steps .*SOLVER\.BASE_LR.*bad_batches"):
        train(cfg, remember)
    assert len(remember.weights) >= 3
    assert not moved(remember.weights[-1], remember.weights[0])


def test_bad_steps_that_are_not_consecutive_do_not_stop_it(cfg: CfgNode, bad_gradient: Callable[..., None]) -> None:
    cfg.SOLVER.MAX_NONFINITE_STEPS = 2
    bad_gradient(0, 2, 4)
    assert len(train(cfg)) == 6


def test_only_some_batches_are_written(cfg: CfgNode, bad_gradient: Callable[..., None]) -> None:
    """The disk is not filled with them."""
    bad_gradient(*range(6))
    train(cfg)
    assert len(files(cfg)) == MAX_WRITTEN == 5


def test_a_run_without_bad_numbers_is_what_it_was(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with_guard = train(cfg)[-1]
    monkeypatch.setattr("prompt_das.engine.hooks.nonfinite_guard.propagate_nonfinite", lambda losses: losses)
    assert not moved(with_guard, train(cfg)[-1])
