"""Watching an adaptation by clicks that were kept aside: the score goes to the metrics, the best moment is kept."""

from __future__ import annotations

from prompt_das.adaptation.held_out_clicks import HeldOutScore
from prompt_das.checkpoint.checkpointer import BEST, PromptDASCheckpointer
from prompt_das.engine.hooks.evaluation import BestCheckpointer, EvalHook
from prompt_das.modeling.meta_arch import PromptDAS

from detectron2.engine import HookBase
from tqdm import tqdm

METRIC = "held_out/score"


def watch_held_out_clicks(
    period: int, score: HeldOutScore, model: PromptDAS, checkpointer: PromptDASCheckpointer
) -> list[HookBase]:
    """Hooks that score ``model`` every ``period`` iterations and after the last, and keep the best checkpoint."""
    return [
        EvalHook(period, lambda: {METRIC: score(model)}),
        BestCheckpointer(period, checkpointer, METRIC, file_prefix=BEST),
    ]


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
