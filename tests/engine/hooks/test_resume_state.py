"""Random numbers and metrics of a run that goes on."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prompt_das.engine.hooks.resume_state import MetricsState, RandomState

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage, JSONWriter


def draw() -> tuple[float, ...]:
    return torch.rand(1).item(), np.random.random(), random.random()  # noqa: NPY002


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    state = RandomState()
    draw()
    torch.save(state.state_dict(), tmp_path / "state.pth")
    expected = draw()
    resumed = RandomState()
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    draw()  # between loading and training
    resumed.before_train()
    assert draw() == expected


def test_a_new_run_leaves_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    RandomState().before_train()
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.json"


def attach(path: Path, storage: EventStorage, start_iter: int = 0) -> tuple[MetricsState, JSONWriter]:
    writer = JSONWriter(str(path))
    hook = MetricsState(path, [writer])
    hook.trainer = SimpleNamespace(storage=storage, start_iter=start_iter)
    return hook, writer


def iterate(storage: EventStorage, writer: JSONWriter, first: int, last: int) -> None:
    """A loss that jumps, and a line of its median every fourth iteration; one score at iteration 5."""
    for i in range(first, last):
        storage.iter = i
        storage.put_scalar("loss", float(i * i % 7))
        if i == 5:
            storage.put_scalar("Dice", 80.0, smoothing_hint=False)
        if i % 4 == 3:
            writer.write()


@pytest.mark.parametrize("saved_after", [4, 5, 6, 7, 8, 10])
def test_lines_are_the_same_and_there_once(metrics: Path, saved_after: int) -> None:
    """Wherever the checkpoint is, before or after a line: medians as before, no line twice, none missing."""
    with EventStorage() as storage:
        hook, writer = attach(metrics, storage)
        iterate(storage, writer, 0, saved_after)
        state: dict[str, Any] = hook.state_dict()
        iterate(storage, writer, saved_after, 24)
    expected = metrics.read_bytes()
    with open(metrics, "ab") as file:
        file.write(b'{"iterat')  # cut off by a kill
    with EventStorage(saved_after) as storage:
        hook, writer = attach(metrics, storage, saved_after)
        hook.load_state_dict(state)
        hook.before_train()
        assert storage.iter == saved_after
        iterate(storage, writer, saved_after, 24)
    assert metrics.read_bytes() == expected


def test_timings_are_not_kept(metrics: Path) -> None:
    """They are the machine's; checkpoints of equal runs are equal."""
    with EventStorage() as storage:
        hook, _ = attach(metrics, storage)
        storage.put_scalars(time=1.0, data_time=0.5, loss=2.0)
        assert hook.state_dict()["values"].keys() == {"loss"}
