"""Watching an adaptation by clicks that were kept aside: the score goes to the metrics, the best moment is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prompt_das.adaptation.held_out_clicks import HeldOutScore
from prompt_das.checkpoint.checkpointer import BEST
from prompt_das.engine.hooks.evaluation import BestCheckpointer, EvalHook
from prompt_das.modeling.meta_arch import PromptDAS

from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from tqdm import tqdm

if TYPE_CHECKING:
    from prompt_das.engine.trainer import PromptDASTrainer

METRIC = "held_out/score"


class ClickWatch:
    """Makes the hooks that score a trainer's network now and then and keep the best checkpoint.

    For ``watch`` of :func:`~prompt_das.engine.trainer.build_trainer`.
    """

    def __init__(self, period: int, score: HeldOutScore | None, *, progress: bool = False) -> None:
        """
        Args:
            period: iterations from one score to the next; the last iteration is scored, too.
            score: None if there are no clicks to watch: then nothing is scored or kept.
            progress: show a progress bar.
        """
        self.period = period
        self.score = score
        self.progress = progress
        self._checkpointer: BestCheckpointer | None = None

    @property
    def best(self) -> float | None:
        """The best score so far; None before the first one."""
        return None if self._checkpointer is None else self._checkpointer.best_metric

    def __call__(self, trainer: PromptDASTrainer) -> list[HookBase]:
        bar = TrainingBar(self.progress)
        score, model = self.score, cast(PromptDAS, trainer.evaluated_model)
        if score is None:
            return [bar]

        def evaluate() -> dict[str, float]:
            with inference_context(model):  # the student, where the teacher is not what counts, is in training mode
                return {METRIC: score(model)}

        self._checkpointer = BestCheckpointer(self.period, trainer.checkpointer, METRIC, file_prefix=BEST)
        return [EvalHook(self.period, evaluate), self._checkpointer, bar]


class TrainingBar(HookBase):
    """A progress bar of the iterations, with the time that is left and the last score."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.bar: tqdm | None = None

    def before_train(self) -> None:
        self.bar = tqdm(
            desc="Adapting",
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="iteration",
            disable=not self.shown,
        )

    def after_step(self) -> None:
        if self.bar is None:
            return
        latest = self.trainer.storage.latest().get(METRIC)
        if latest is not None:
            self.bar.set_postfix_str(f"held-out clicks {latest[0]:.3f}", refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        if self.bar is not None:
            self.bar.close()
