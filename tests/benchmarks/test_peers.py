"""What is measured side by side computes the same."""

from __future__ import annotations

from typing import Any

from benchmarks import measure, one_mask_per_instance, step
from prompt_das.evaluation.metrics import evaluate_slice
from prompt_das.ops.points import pad_points

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@pytest.fixture
def peers(tiny: list[str]) -> tuple[Any, Any]:
    """Ours and one image at a time, in float32, with the same weights and data."""
    cfg = step.config("quick", "float32", [*tiny, "DOMAIN_ADAPT.CONTRASTIVE.NUM_NEGATIVES", "16"])
    return step.Ours(cfg, 0), step.Peer(cfg, 0)


def some_points(*counts: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(counts))
    return [32 * torch.rand(n, 2, generator=generator) for n in counts]


@pytest.mark.parametrize("prompts", [(0, 0, 0), (1, 1, 1), (0, 1, 5)])
@pytest.mark.parametrize("contrastive", [(0, 0, 0), (3, 0, 7)])
def test_one_image_at_a_time_is_the_same_network(peers: Any, prompts: tuple, contrastive: tuple) -> None:
    ours, peer = peers
    images, prompt_lists, contrastive_lists = ours.windows[:3], some_points(*prompts), some_points(*contrastive)
    points, valid = pad_points(contrastive_lists)
    expected = ours.network.decode(
        ours.network.encode(images),
        *pad_points(prompt_lists),
        ours.size,
        contrastive_points=points,
        contrastive_valid=valid,
    )
    answers = peer.plain.predict(images, prompt_lists, contrastive_lists)
    for i, answer in enumerate(answers):
        torch.testing.assert_close(answer.logits, expected.logits[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(answer.density, expected.density[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(answer.contrastive, expected.contrastive[i, valid[i]], rtol=0, atol=1e-5)


def test_one_image_at_a_time_has_the_same_losses_and_gradients(peers: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for x in peers[0].batch:
        x["prompts"] = x["prompts"][:0] if x["domain"] == "source" else x["prompts"]
        if x["domain"] == "target":
            x["pixel_valid"] = torch.rand(32, 32, generator=generator) > 0.4
            x["density_ignore"] = torch.rand(32, 32, generator=generator) > 0.3
    targets = [x for x in peers[0].batch if x["domain"] == "target"]
    targets[0]["contrastive"]["positives"] = torch.zeros(0, 2)  # an image without sparse points
    targets[1]["pixel_valid"][:] = False  # and one where the teacher is sure of nothing
    ours, peer = (side.network for side in peers)
    expected, found = ours.losses(peers[0].batch), peers[1].plain.losses(peers[0].batch)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    for (name, a), b in zip(ours.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_one_image_at_a_time_has_the_same_teacher(peers: Any) -> None:
    """Also where a sparse point lies beside a peak of the first pass, which then counts once."""
    ours, peer = peers
    none = pad_points([p[:0] for p in ours.sparse])
    _, _, points, valid = ours.labeler.predict_teacher(ours.targets, *pad_points(ours.sparse), *none)
    assert int(valid.sum()) >= ours.peaks - len(ours.targets)  # about as many peaks as asked for
    for side in peers:
        side.sparse = [p[v][:2] + 0.25 for p, v in zip(points, valid, strict=True)]
    expected, found = ours.predict_teacher(), peer.predict_teacher()
    for name in ("probability", "density"):
        for a, b in zip(expected[name], found[name], strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-5)


def test_what_is_not_the_same_is_not_compared() -> None:
    compare = step.compare
    ones = [torch.ones(2), torch.tensor([2.0])]
    assert compare({"losses": ones}, {"losses": [ones[0], torch.tensor([2.001])]}, "step")["losses"] < 1e-3
    for other in (2.01, float("nan")):
        with pytest.raises(RuntimeError, match="step: losses of prompt_das and one image at a time differ"):
            compare({"losses": ones}, {"losses": [ones[0], torch.tensor([other])]}, "step")


SMALL_MAPS = hnp.arrays(np.int32, (5, 6), elements=st.integers(0, 3))


@given(true=SMALL_MAPS, pred=SMALL_MAPS)
def test_one_mask_per_instance_on_any_small_maps(true: np.ndarray, pred: np.ndarray) -> None:
    expected = evaluate_slice(true, pred)
    for name, value in one_mask_per_instance.scores(true, pred).items():
        assert value == pytest.approx(expected[name])


def test_peers_take_turns_and_the_first_round_does_not_count() -> None:
    calls = ""

    def call(name: str) -> None:
        nonlocal calls
        calls += name

    times = measure.interleaved({"a": lambda: call("a"), "b": lambda: call("b")}, repeats=3)
    assert calls == "abbaabba"
    assert [len(taken) for taken in times.values()] == [3, 3]
