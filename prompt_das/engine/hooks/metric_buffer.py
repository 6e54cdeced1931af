"""Metrics that stay on the device for some iterations and are copied to the host together, so that no step waits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor


class MetricBuffer(HookBase):
    """Buffer of metrics, before all hooks that read or write them; each value keeps its own iteration.

    A value that is not finite is skipped: :class:`~prompt_das.engine.hooks.nonfinite_guard.NonFiniteGuard` reports it.
    """

    def __init__(self, period: int) -> None:
        """``period``: iterations between two flushes, that of the writers."""
        self.period = period
        self.current: dict[str, Tensor] = {}
        self.rows: list[tuple[int, list[str], Tensor]] = []

    def put(self, scalars: Mapping[str, Tensor]) -> None:
        """Add scalars of this iteration, on the device. All processes put the same names; their mean is kept."""
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
        """Write the buffered values to the event storage. No collective operation: any rank may call it at any time."""
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
