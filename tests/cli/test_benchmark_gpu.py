"""`tools/benchmark.py gpu` runs end to end on a CPU, in a tiny size, so that no GPU is lent for a silly error."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from prompt_das.modeling import PromptDAS
from prompt_das.modeling.losses import segmentation_loss

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import nn

LoadTool = Callable[[str], ModuleType]
pytestmark = pytest.mark.usefixtures("quiet_logging")
DOCUMENT = (
    "# Performance\n\nBefore.\n\n<!-- begin: make benchmark-gpu -->\nold\n<!-- end: make benchmark-gpu -->\n\nAfter.\n"
)


@pytest.fixture
def gpu(load_tool: LoadTool) -> ModuleType:
    return load_tool("benchmarks.gpu")


@pytest.fixture
def rehearse(load_tool: LoadTool, tmp_path: Path, tiny: list[str]) -> Callable[..., list[dict[str, Any]]]:
    """The command on the CPU, with the fewest repeats -> what it wrote."""

    def run(*options: str, opts: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        out = tmp_path / "gpu.json"
        size = ["--repeats", "1", "--iterations", "2", "--warm-up", "1", "--slice", "96", "--data", "96"]
        words = ["gpu", "--device", "cpu", *size, "--batches", "4", "--output", str(out), *options]
        load_tool("benchmark").main([*words, "--", *tiny, *opts])
        return json.loads(out.read_text())["gpu"]

    return run


# ---- the whole command


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


def test_an_iteration_without_contrast_is_an_error(rehearse: Callable) -> None:
    """It would cost less than a real one."""
    with pytest.raises(SystemExit, match="training iteration failed: RuntimeError: the contrastive loss of the batch"):
        rehearse("--parts", "training iteration", opts=("DOMAIN_ADAPT.CONTRASTIVE.BACKGROUND", "0.0"))


def test_without_a_gpu_the_command_says_so(load_tool: LoadTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device, and torch sees none: `--device cpu` rehearses it"):
        load_tool("benchmark").main(["gpu"])


def test_what_the_time_does_not_suffice_for_is_left_out_and_named(
    rehearse: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    results = rehearse("--minutes", "0")
    assert all("note" in result for result in results)
    assert capsys.readouterr().out.count("Left out: no time was left.") == 5


def test_cases_of_a_slice_are_left_out_one_by_one(load_tool: LoadTool, gpu: ModuleType, tiny_cfg: CfgNode) -> None:
    left = iter([100.0, 100.0, 0.0, 0.0, 0.0])  # asked before and after each warm-up
    result = load_tool("benchmarks.whole_slice").benchmark_slice(tiny_cfg, 64, [4], 1, 0, lambda: next(left))
    assert [(c["protocol"], c["density"]) for c in result["cases"]] == [("fast", False)]
    assert len(result["cases left out"]) == 3
    report = gpu.report([{"what": "slice", **result}])
    assert "Left out, no time: fast, density True, batch 4; paper, density False, batch 4" in report


def test_a_failing_part_does_not_lose_the_others(
    rehearse: Callable, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: Any) -> dict[str, Any]:
        raise RuntimeError("CUDA error: out of luck")

    monkeypatch.setitem(gpu.PARTS, "ceilings", fail)
    with pytest.raises(SystemExit, match="ceilings failed: RuntimeError: CUDA error: out of luck"):
        rehearse("--parts", "ceilings", "metrics")
    ceilings, metrics = json.loads((tmp_path / "gpu.json").read_text())["gpu"]
    assert ceilings["failed"] == "RuntimeError: CUDA error: out of luck"
    assert set(metrics["seconds"]) == {"instances of both masks", "Dice, AJI and PQ"}


# ---- the document


def test_the_tables_replace_what_is_between_the_marks(gpu: ModuleType, tmp_path: Path, load_tool: LoadTool) -> None:
    document = tmp_path / "PERFORMANCE.md"
    document.write_text(DOCUMENT)
    args = argparse.Namespace(document=document, device="cuda")
    results = [{"what": "slice", "note": "left out: no time was left"}]
    for _ in range(2):  # the second time it replaces its own
        gpu.conclude(args, load_tool("benchmarks.measure").machine(0), results)
    text = document.read_text()
    assert text.startswith("# Performance\n\nBefore.\n\n<!-- begin: make benchmark-gpu -->\n\n")
    assert text.endswith("### Slice\n\nLeft out: no time was left.\n\n<!-- end: make benchmark-gpu -->\n\nAfter.\n")
    assert "old" not in text


def test_the_documentation_has_a_place_for_the_tables(gpu: ModuleType) -> None:
    document = (Path(__file__).parents[2] / "docs" / "PERFORMANCE.md").read_text()
    assert "the new tables" in gpu.replace_between_marks(document, "the new tables")


def test_a_document_without_the_marks_is_refused_at_once(rehearse: Callable, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("# Something else\n")
    with pytest.raises(ValueError, match="it needs the lines <!-- begin: make benchmark-gpu -->"):
        rehearse("--document", str(document))


# ---- agreement


def test_the_same_network_agrees_with_itself_and_a_wrong_one_does_not(
    load_tool: LoadTool, gpu: ModuleType, tiny_cfg: CfgNode
) -> None:
    agreement = load_tool("benchmarks.agreement")
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


def test_relative_error_by_hand(load_tool: LoadTool) -> None:
    error = load_tool("benchmarks.agreement").relative_error
    assert error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.5 / 5)
    assert not error(torch.tensor([float("nan")]), torch.tensor([1.0])) <= 1e-3


# ---- FLOP


def test_flop_of_known_layers(load_tool: LoadTool) -> None:
    count_flop = load_tool("benchmarks.flops").count_flop
    x = torch.rand(7, 10)
    linear = nn.Linear(10, 20)
    assert count_flop(lambda: linear(x)) == 2 * 7 * 10 * 20
    # Backward: the gradient of the weight, and of the input only if something asks for it.
    assert count_flop(lambda: linear(x).sum().backward()) == 2 * (2 * 7 * 10 * 20)
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert count_flop(lambda: conv(torch.rand(2, 3, 16, 16))) == 2 * (2 * 16 * 16) * 8 * (3 * 9)


def test_flop_of_attention_is_counted_forward_and_backward(load_tool: LoadTool) -> None:
    """A processor's kernel is unknown to torch's counter, which would say 0."""
    count_flop = load_tool("benchmarks.flops").count_flop
    q, k, v = (torch.rand(2, 4, n, 8, requires_grad=True) for n in (32, 48, 48))
    product = 2 * (2 * 4) * 32 * 48 * 8
    assert count_flop(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * product
    assert count_flop(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == (2 + 5) * product


# ---- host synchronisations


def test_host_synchronisations_are_counted_by_the_line_of_this_package(
    load_tool: LoadTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = load_tool("benchmarks.training_iteration")
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


# ---- the compiled iteration


@pytest.mark.parametrize(
    ("script", "minutes", "note"),
    [
        ("import sys; sys.exit('no compiler')", 1.0, "failed: no compiler"),
        ("import time; time.sleep(60)", 0.001, "not done within the time that was left"),
    ],
)
def test_a_compiler_that_fails_or_takes_too_long_is_reported(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, script: str, minutes: float, note: str
) -> None:
    commands: list[list[str]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen:
        commands.append(command)
        return popen([sys.executable, "-c", script], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    args = argparse.Namespace(device="cuda", iterations=3, warm_up=1, data=96, seed=0, opts=["SEED", "1"])
    assert gpu.train_compiled(args, gpu.Clock(60 * minutes)) == {"note": note}
    assert commands[0][-4:] == ["SEED", "1", "MODEL.COMPILE", "inductor"]
