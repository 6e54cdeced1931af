"""Evaluation during and after training, and the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.engine import hooks


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
