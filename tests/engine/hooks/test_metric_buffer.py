"""Metrics arrive together, each at its own iteration."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

from prompt_das.engine.hooks.metric_buffer import MetricBuffer

import pytest
import torch
from detectron2.utils.events import EventStorage


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def steps(buffer: MetricBuffer, storage: EventStorage, values: list[float], last: int = 100) -> None:
    for value in values:
        buffer.trainer = SimpleNamespace(iter=storage.iter, max_iter=last, storage=storage)
        buffer.put({"loss": torch.tensor(value, requires_grad=True)})
        buffer.put({"share": torch.tensor(value / 2)})
        buffer.after_step()
        storage.step()


def test_values_arrive_after_a_period_at_their_own_iterations(storage: EventStorage) -> None:
    buffer = MetricBuffer(3)
    steps(buffer, storage, [1.0, 2.0])
    assert not storage.histories()
    steps(buffer, storage, [3.0, 4.0])
    assert storage.history("loss").values() == [(1.0, 0), (2.0, 1), (3.0, 2)]
    assert storage.history("share").values() == [(0.5, 0), (1.0, 1), (1.5, 2)]
    assert storage.iter == 4
    buffer.flush()  # as before a checkpoint
    assert storage.history("loss").values()[-1] == (4.0, 3)
    steps(buffer, storage, [5.0, 6.0])
    assert [iteration for _, iteration in storage.history("loss").values()] == [0, 1, 2, 3, 4, 5]


def test_the_last_iteration_is_written_too(storage: EventStorage) -> None:
    steps(MetricBuffer(3), storage, [1.0, 2.0], last=2)
    assert len(storage.history("loss").values()) == 2


def test_a_run_that_ends_early_leaves_nothing_behind(storage: EventStorage) -> None:
    buffer = MetricBuffer(3)
    steps(buffer, storage, [1.0])
    buffer.after_train()
    assert storage.history("loss").values() == [(1.0, 0)]


def test_what_is_not_a_number_is_left_out(storage: EventStorage) -> None:
    steps(MetricBuffer(2), storage, [float("nan"), float("inf"), 1.0, 2.0])
    assert storage.history("loss").values() == [(1.0, 2), (2.0, 3)]


def test_iterations_without_metrics(storage: EventStorage) -> None:
    buffer = MetricBuffer(1)
    buffer.trainer = SimpleNamespace(iter=0, max_iter=2, storage=storage)
    buffer.after_step()
    assert not storage.histories()
