"""The moment of an adaptation that is kept: the last one whose score is not far below that of the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prompt_das.engine.hooks.held_out_clicks import METRIC, LastGoodCheckpointer

import pytest


def run(scores: dict[int, float], before: float) -> tuple[LastGoodCheckpointer, list[int]]:
    """A run of 6 iterations, scored after every other one -> the hook, and the iterations that it saved."""
    saved: list[int] = []
    checkpointer: Any = SimpleNamespace(save=lambda name, iteration: saved.append(iteration))
    hook = LastGoodCheckpointer(2, checkpointer, before, 0.1)
    hook.trainer = SimpleNamespace(max_iter=6, storage=SimpleNamespace())  # type: ignore[assignment]
    for iteration in range(6):
        hook.trainer.iter = iteration
        hook.trainer.storage.latest = lambda done=iteration + 1: {METRIC: (scores.get(done, 0.0), done)}
        hook.after_step()
    hook.trainer.iter = 6
    hook.after_train()
    return hook, saved


@pytest.mark.parametrize(
    ("scores", "saved", "kept"),
    [
        ({2: 0.9, 4: 0.8, 6: 0.85}, [1, 3, 6], 0.85),  # not the best one
        ({2: 0.6, 4: 0.46, 6: 0.44}, [1, 3], 0.46),  # from 0.45 on
        ({2: 0.6, 4: 0.3, 6: 0.5}, [1, 6], 0.5),
        ({2: 0.39, 4: 0.3, 6: 0.2}, [], None),
    ],
)
def test_the_last_good_moment_is_kept(scores: dict[int, float], saved: list[int], kept: float | None) -> None:
    hook, iterations = run(scores, before=0.5)
    assert iterations == saved
    assert (hook.kept, hook.last) == (kept, scores[6])
    resumed = LastGoodCheckpointer(2, hook.checkpointer, 0.5, 0.1)
    resumed.load_state_dict(hook.state_dict())
    assert (resumed.kept, resumed.last) == (kept, scores[6])
