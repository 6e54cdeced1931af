"""Metrics stay on the device for some iterations and come to the host together: no training step waits for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn


class MetricBuffer(HookBase):
    """Comes before all hooks that read or write metrics; each value still belongs to its own iteration.

    A value that is not finite is left out: :class:`~prompt_das.engine.hooks.nonfinite_guard.NonFiniteGuard` reports it.
    """

    def __init__(self, period: int) -> None:
        """``period``: iterations from one time to the next, that of the writers."""
        self.period = period
        self.current: dict[str, Tensor] = {}
        self.rows: list[tuple[int, list[str], Tensor]] = []

    def put(self, scalars: Mapping[str, Tensor]) -> None:
        """Scalars of this iteration, on the device; several processes put the same names, and their mean counts."""
        self.current.update({name: value.detach() for name, value in scalars.items()})

    def after_step(self) -> None:
        if self.current:
            row = torch.stack([value.float() for value in self.current.values()])
            if comm.get_world_size() > 1:
                torch.distributed.all_reduce(row)
                row /= comm.get_world_size()
            self.rows.append((self.trainer.iter, list(self.current), row))
            self.current = {}
        if (self.trainer.iter + 1) % self.period == 0 or self.trainer.iter + 1 == self.trainer.max_iter:
            self.flush()

    def flush(self) -> None:
        """Bring what is there to the event storage. It needs no other process: before a checkpoint, for example."""
        if not self.rows:
            return
        values = iter(torch.cat([row for _, _, row in self.rows]).tolist())
        storage = self.trainer.storage
        now = storage.iter
        for iteration, names, _ in self.rows:
            storage.iter = iteration
            row = {name: next(values) for name in names}
            storage.put_scalars(**{name: value for name, value in row.items() if math.isfinite(value)})
        storage.iter = now
        self.rows = []

    def after_train(self) -> None:
        self.flush()


class StepRunner(SimpleTrainer):
    """Detectron2's training step, whose losses go to a :class:`MetricBuffer`."""

    def __init__(self, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer, metrics: MetricBuffer) -> None:
        super().__init__(model, loader, optimizer)
        self.metrics = metrics

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        get_event_storage().put_scalar(f"{prefix}data_time", data_time)
        self.metrics.put({f"{prefix}total_loss": torch.stack(list(loss_dict.values())).sum(), **loss_dict})
