"""The predictor on a GPU that does not exist: no tensor is left on the wrong device, and the answer is the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest
import torch
from predictor_harness import IMAGE, NONE, POINTS, Make
from pretended_gpu import OnGPU, move, pretended_gpu

LABELS = [1, 0, 1]


def answers(predictor: Predictor) -> list[Any]:
    """Of clicks that come, move and go, in all of the slice and in a part."""
    predictor.set_image(IMAGE)
    return [
        predictor.predict(NONE),
        predictor.predict(POINTS, LABELS, centers=True),
        predictor.predict(POINTS[:1] + 1, region=(0, 0, 40, 30)),
        *predictor.stream(POINTS[1:], interval=0),
    ]


@pytest.mark.parametrize("reach", ["image", "object"])
@pytest.mark.parametrize("instances", ["components", "centers"])
def test_the_answers_are_those_of_the_cpu(
    make: Make, monkeypatch: pytest.MonkeyPatch, reach: str, instances: str
) -> None:
    settings = ["TEST.CLICK_REACH", reach, "TEST.INSTANCES", instances, "TEST.MIN_CONFIDENCE", "0.6"]
    settings += ["MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder", "INPUT.SCALE", "0.7"]
    expected = answers(make(*settings))
    predictor = make(*settings)
    move(predictor._model)
    assert predictor.device.type == "cuda"
    with pretended_gpu(monkeypatch):
        seen = answers(predictor)
    assert len(seen) == len(expected)
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
        assert (one.centers is None) == (other.centers is None)
        if one.centers is not None:
            np.testing.assert_allclose(one.centers.points, other.centers.points, atol=1e-4)


# ---- the GPU itself


@pytest.mark.parametrize(
    "offence",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3) * x,
        lambda x: torch.cat([x, torch.ones(1)]),
        lambda x: torch.ones(3)[x > 0],
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
    ],
)
def test_what_a_gpu_would_refuse_is_refused(monkeypatch: pytest.MonkeyPatch, offence: Callable) -> None:
    with pretended_gpu(monkeypatch):
        x = torch.ones(3).to("cuda")
        with pytest.raises((RuntimeError, TypeError)):
            offence(x)


def test_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(monkeypatch):
        x = torch.arange(3.0, device="cuda")
        x += torch.ones(3).to("cuda", non_blocking=True)
        x[torch.tensor([0])] = 7
        x.mul_(x.new_tensor([1.0, 2.0, 3.0]))
        assert isinstance(x, OnGPU)
        assert x.cpu().tolist() == [7, 4, 9]
        assert torch.zeros(2, device="cuda").copy_(torch.ones(2)).device.type == "cuda"
        assert torch.zeros(2).copy_(x[:2]).device.type == "cpu"
    assert not isinstance(torch.ones(2) + 1, OnGPU)
