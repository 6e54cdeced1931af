"""Evaluation during and after training, and the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prompt_das.adaptation.monitor import SparseRecall
from prompt_das.checkpoint.checkpointer import BEST, PromptDASCheckpointer

from detectron2.engine import HookBase, hooks


class EvalHook(hooks.EvalHook):
    """Detectron2's; but in ``after_train`` it only evaluates a run that is complete, not one that was stopped early."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class FinalTest(EvalHook):
    """Evaluates once, after the last iteration. ``results`` is {} before, and on ranks other than 0."""

    def __init__(self, evaluate: Callable[[], dict[str, Any]]) -> None:
        super().__init__(0, self.run)
        self.evaluate = evaluate
        self.results: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        self.results = self.evaluate()
        return {"test": self.results}  # validation has written its metrics without this prefix


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's; its best value is part of the checkpoint, so that a resumed run keeps it."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_metric, self.best_iter = state["best_metric"], state["best_iter"]


class RecallCheckpointer(HookBase):
    """Keeps the checkpoint of the best recall on the sparse points, for a run without a validation set."""

    def __init__(self, period: int, checkpointer: PromptDASCheckpointer, recall: SparseRecall) -> None:
        """``period``: iterations from one comparison to the next; 0 = at the end only."""
        self.period = period
        self.checkpointer = checkpointer
        self.recall = recall
        self.best = 0.0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        mean = self.recall.mean
        due = done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0)
        if due and mean is not None and mean > self.best:
            self.best = mean
            self.checkpointer.save(BEST, iteration=self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
