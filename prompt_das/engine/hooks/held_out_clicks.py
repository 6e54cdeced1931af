"""Watching an adaptation by clicks that were kept aside: scores go to the metrics, the last good moment is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prompt_das.adaptation.held_out_clicks import HeldOutScore
from prompt_das.checkpoint.checkpointer import BEST, PromptDASCheckpointer
from prompt_das.engine.hooks.evaluation import EvalHook
from prompt_das.modeling.meta_arch import PromptDAS

from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from tqdm import tqdm

if TYPE_CHECKING:
    from prompt_das.engine.trainer import PromptDASTrainer

METRIC = "held_out/score"


class ClickWatch:
    """Makes the hooks that score a trainer's network now and then and keep the checkpoint of the last good score.

    For ``make_validation`` of :func:`~prompt_das.engine.trainer.build_trainer`.
    """

    def __init__(
        self,
        period: int,
        score: HeldOutScore | None,
        *,
        before: float = 0.0,
        tolerance: float = 0.0,
        progress: bool = False,
    ) -> None:
        """
        Args:
            period: iterations from one score to the next; the last iteration is scored, too.
            score: None if there are no clicks to watch: then nothing is scored or kept.
            before: the score of the start.
            tolerance: how much lower a good score may be, of ``before``.
            progress: show a progress bar.
        """
        self.period = period
        self.score = score
        self.before = before
        self.tolerance = tolerance
        self.progress = progress
        self._checkpointer: LastGoodCheckpointer | None = None

    @property
    def kept(self) -> float | None:
        """The score of the moment that is kept; None if there is none."""
        return None if self._checkpointer is None else self._checkpointer.kept

    @property
    def last(self) -> float | None:
        """The last score; None before the first one."""
        return None if self._checkpointer is None else self._checkpointer.last

    def __call__(self, trainer: PromptDASTrainer) -> list[HookBase]:
        bar = TrainingBar(self.progress)
        score, model = self.score, cast(PromptDAS, trainer.evaluated_model)
        if score is None:
            return [bar]

        def evaluate() -> dict[str, float]:
            with inference_context(model):  # the student, where the teacher is not what counts, is in training mode
                return {METRIC: score(model)}

        self._checkpointer = LastGoodCheckpointer(self.period, trainer.checkpointer, self.before, self.tolerance)
        return [EvalHook(self.period, evaluate), self._checkpointer, bar]


class LastGoodCheckpointer(HookBase):
    """Saves a checkpoint after each good score, in the place of the one before.

    Good is a score that is at most ``tolerance`` of the start's below it. Not the best one is kept: a score can tell
    that an adaptation does harm, but hardly which of two good moments is better, and the first ones would win, since
    they are most like the start.

    Attributes:
        last: the last score; None before the first one.
        kept: the score of the checkpoint; None as long as there is none.
    """

    def __init__(self, period: int, checkpointer: PromptDASCheckpointer, before: float, tolerance: float) -> None:
        """``before``: the score of the start; ``period``: iterations from one score to the next."""
        self.period = period
        self.checkpointer = checkpointer
        self.lowest = (1 - tolerance) * before
        self.last: float | None = None
        self.kept: float | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._save_if_good()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._save_if_good()

    def _save_if_good(self) -> None:
        self.last = self.trainer.storage.latest()[METRIC][0]
        if self.last >= self.lowest:
            self.kept = self.last
            self.checkpointer.save(BEST, iteration=self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.kept = state["last"], state["kept"]


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
