"""`python -m benchmarks gpu` runs end to end on a CPU, in a tiny size, so that no GPU is lent for a silly error."""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import agreement, flops, gpu, measure, training_iteration
from benchmarks.__main__ import main
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.losses import segmentation_loss

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode

pytestmark = pytest.mark.usefixtures("quiet_logging")
DOCUMENT = (
    "# Performance\n\nBefore.\n\n<!-- begin: make benchmark-gpu -->\nold\n<!-- end: make benchmark-gpu -->\n\nAfter.\n"
)


@pytest.fixture
def rehearse(tmp_path: Path, tiny: list[str]) -> Callable[..., list[dict[str, Any]]]:
    """The command on the CPU, with the fewest repeats -> what it wrote."""

    def run(*options: str, opts: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        out = tmp_path / "gpu.json"
        size = ["--repeats", "1", "--iterations", "2", "--warm-up", "1", "--slice", "96", "--data", "96"]
        words = ["gpu", "--device", "cpu", *size, "--batches", "4", "--output", str(out), *options]
        main([*words, "--", *tiny, *opts])
        return json.loads(out.read_text())["gpu"]

    return run


@pytest.mark.slow
def test_every_part_is_measured_and_reported(
    rehearse: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "PERFORMANCE.md"
    document.write_text(DOCUMENT)
    results = {result["what"]: result for result in rehearse("--document", str(document))}
    assert not [r for r in results.values() if "failed" in r]

    training = results["training iteration"]
    assert training["images"] == [2, 2]
    assert training["iterations"] == 2
    assert set(training["iteration, ms"]) == {"median by the host", "wall clock / number"}  # and the device's, if any
    assert set(training["parts, ms"]) == {"data", "teacher", "forward", "backward", "optimizer", "EMA"}
    assert min(times["low"] for times in training["parts, ms"].values()) > 0
    work = training["GFLOP"]
    assert work["teacher"] < work["forward"] < work["backward"]
    assert training["memory"]["beyond"] > 0
    assert min(training["contrastive loss"].values()) > 0  # positives, queries and negatives of an image, and the loss

    assert results["agreement"]["agrees"]
    assert set(results["agreement"]["errors"]) == {"float32", "bfloat16"}

    cases = results["slice"]["cases"]
    assert [(c["protocol"], c["density"]) for c in cases] == [(p, d) for p in ("fast", "paper") for d in (False, True)]
    # Windows of 32 with a stride of 21, and of 10 with four rotations, on 96 pixels.
    assert [(c["windows"], c["views"]) for c in cases[::2]] == [(5**2, 25), (8**2, 256)]
    assert results["compiled iteration"]["note"] == "not in a rehearsal"

    out = capsys.readouterr().out
    for title in ("Ceilings", "Training iteration", "Agreement", "Slice", "Metrics", "Compiled iteration"):
        assert f"### {title}" in out
    assert document.read_text() == DOCUMENT  # a rehearsal is no measurement


def test_a_failing_part_does_not_lose_the_others(
    rehearse: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: Any) -> dict[str, Any]:
        raise RuntimeError("CUDA error: out of luck")

    monkeypatch.setitem(gpu.PARTS, "ceilings", fail)
    with pytest.raises(SystemExit, match="ceilings failed: RuntimeError: CUDA error: out of luck"):
        rehearse("--parts", "ceilings", "metrics")
    ceilings, metrics = json.loads((tmp_path / "gpu.json").read_text())["gpu"]
    assert ceilings["failed"] == "RuntimeError: CUDA error: out of luck"
    assert set(metrics["seconds"]) == {"instances of both masks", "Dice, AJI and PQ"}


def test_the_tables_replace_what_is_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "PERFORMANCE.md"
    document.write_text(DOCUMENT)
    args = argparse.Namespace(document=document, device="cuda")
    results = [{"what": "slice", "note": "left out: no time was left"}]
    for _ in range(2):  # the second time it replaces its own
        gpu.conclude(args, measure.machine(0), results)
    text = document.read_text()
    assert text.startswith("# Performance\n\nBefore.\n\n<!-- begin: make benchmark-gpu -->\n\n")
    assert text.endswith("### Slice\n\nLeft out: no time was left.\n\n<!-- end: make benchmark-gpu -->\n\nAfter.\n")
    assert "old" not in text


def test_the_documentation_has_a_place_for_the_tables() -> None:
    document = (Path(__file__).parents[2] / "docs" / "PERFORMANCE.md").read_text()
    assert "the new tables" in gpu.replace_between_marks(document, "the new tables")


def test_the_same_network_agrees_with_itself_and_a_wrong_one_does_not(tiny_cfg: CfgNode) -> None:
    network = PromptDAS(tiny_cfg).train()
    wrong = copy.deepcopy(network)
    assert agreement.compare_networks(tiny_cfg, network, copy.deepcopy(network))["agrees"]
    with torch.no_grad():
        wrong.backbone.vit.blocks[0].mlp.fc1.weight *= 1.1
    result = agreement.compare_networks(tiny_cfg, network, wrong)
    assert not result["agrees"]
    assert result["errors"]["float32"]["logits"] > 1e-3
    assert "NOT within 1e-03" in gpu.report([{"what": "agreement", **result}])
    with pytest.raises(SystemExit, match="the device and the processor disagree"):
        gpu.conclude(argparse.Namespace(document=None, device="cuda"), {}, [{"what": "agreement", **result}])


def test_flop_of_attention_is_counted_forward_and_backward() -> None:
    """A processor's kernel is unknown to torch's counter, which would say 0."""
    count_flop = flops.count_flop
    q, k, v = (torch.rand(2, 4, n, 8, requires_grad=True) for n in (32, 48, 48))
    product = 2 * (2 * 4) * 32 * 48 * 8
    assert count_flop(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * product
    assert count_flop(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == (2 + 5) * product


def test_host_synchronisations_are_counted_by_the_line_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_iteration
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    cross_entropy = F.binary_cross_entropy_with_logits

    def waits(*args: Any, **options: Any) -> torch.Tensor:
        warnings.warn("something else", stacklevel=1)
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        return cross_entropy(*args, **options)

    monkeypatch.setattr(F, "binary_cross_entropy_with_logits", waits)
    before = warnings.showwarning
    sites = training.host_synchronisations(lambda: segmentation_loss(*torch.zeros(2, 1, 4, 4)))
    assert list(sites.values()) == [3]
    assert next(iter(sites)).startswith("prompt_das/modeling/losses.py:")
    assert next(iter(sites)).endswith(", segmentation_loss")
    assert modes == ["warn", "default"]
    assert warnings.showwarning is before
