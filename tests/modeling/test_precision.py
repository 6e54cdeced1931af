"""MODEL.PRECISION on devices with and without bfloat16."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prompt_das.modeling import precision
from prompt_das.modeling.load import build_model
from prompt_das.modeling.precision import computed_precision

import pytest
import torch
from detectron2.config import CfgNode

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test makes of this machine's instructions is forgotten."""
    computed_precision.cache_clear()
    yield
    computed_precision.cache_clear()


def test_without_instructions_bfloat16_is_float32_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.INFO, logger="prompt_das"):
        assert [computed_precision("bfloat16", CPU) for _ in range(3)] == ["float32"] * 3
    assert caplog.messages == ["MODEL.PRECISION is bfloat16, which this CPU lacks: computing in float32"]


def test_with_instructions_it_stays(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    assert [computed_precision(name, CPU) for name in ("bfloat16", "float32")] == ["bfloat16", "float32"]
    assert not caplog.messages


@pytest.mark.parametrize("has", [False, True])
def test_a_network_computes_in_what_there_is(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    tiny_cfg.MODEL.PRECISION = "bfloat16"
    with build_model(tiny_cfg).autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if has else torch.float32)


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_multiply_bfloat16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_bfloat16(torch.device("cuda:0")) == has


def test_torch_says_what_this_processor_has() -> None:
    """A torch that no longer knows the question would make every CPU compute in float32, or raise."""
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if flags.get("architecture") != "x86_64" or flags.get("avx_ne_convert"):
        pytest.skip("another way to bfloat16 than AVX-512")
    assert precision.has_bfloat16(CPU) == all(flags[f"avx512_{part}"] for part in ("f", "bw", "vl", "dq"))
