"""The source model: the weights at the end of burn-in."""

from __future__ import annotations

from prompt_das.checkpoint.checkpointer import SOURCE, PromptDASCheckpointer

from detectron2.engine import HookBase


class SourceModelCheckpointer(HookBase):
    """Writes ``model_source.pth`` before the first adaptation step, to be used again and to be compared with."""

    def __init__(self, checkpointer: PromptDASCheckpointer, adapt_from: int) -> None:
        """``adapt_from``: the first iteration of the adaptation; at 0 the run has no source model of its own."""
        self.checkpointer = checkpointer
        self.adapt_from = adapt_from

    def before_step(self) -> None:
        if self.trainer.iter == self.adapt_from > 0:
            self.checkpointer.save(SOURCE, iteration=self.adapt_from - 1)
