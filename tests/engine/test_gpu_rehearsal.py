"""The training step on a GPU that does not exist: nothing waits for it, and nothing is left on the wrong device.

PyTorch's fake tensors have shapes, types and devices, but no values. What asks for a value, as `.item()`, `nonzero`
or an `if` on a tensor do, fails; so does an operation on tensors of two devices. Copies are watched on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prompt_das.adaptation.mean_teacher import MovingAverage, make_teacher
from prompt_das.adaptation.pseudo_labels import PseudoLabeler
from prompt_das.data.build import SampleStream, get_slices
from prompt_das.data.dataset_mapper import SourceMapper, TargetMapper
from prompt_das.data.slices import read_labels
from prompt_das.data.sparse_points import sample_dataset_points
from prompt_das.engine.hooks.nonfinite_guard import propagate_nonfinite
from prompt_das.engine.solver import build_optimizer
from prompt_das.modeling import PromptDAS, structures
from prompt_das.ops import sliding_window

import pytest
import torch
from detectron2.config import CfgNode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoWaiting(TorchDispatchMode):
    """Refuses copies for which the host waits: all from the GPU, and those to it that are not asked to go on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        before, after = (
            {x.device.type for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.ndim} for tree in (args, out)
        )
        if "cuda" in before and "cpu" in after:
            raise AssertionError(f"{func} brings a tensor to the host")
        if "cpu" in before and "cuda" in after and not kwargs.get("non_blocking"):
            raise AssertionError(f"{func} makes the host wait until its tensor is on the GPU")
        return out


def to_fake(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """Within a FakeTensorMode; what ``model.to(device)`` would do."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(parameter, device=device)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=device))
    return model


@pytest.fixture
def samples(tiny_cfg: CfgNode, synthetic_data: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    source, target = (get_slices((f"synthetic_{domain}_train",)) for domain in ("source", "target"))
    points = {"synthetic_target_train": sample_dataset_points(target, 0.5, 0, read_labels)}
    streams = (
        SampleStream(source, SourceMapper(tiny_cfg), (0, 0)),
        SampleStream(target, TargetMapper(tiny_cfg, points), (0, 1)),
    )
    one, two = ([stream[0], stream[1]] for stream in streams)
    return one, two


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
def test_a_training_step_waits_for_nothing(tiny_cfg: CfgNode, samples: Any) -> None:
    """Labels of the teacher, losses of the student, the optimizer's step, the teacher's."""
    source, target = samples
    reported: dict[str, torch.Tensor] = {}
    # Components that peaks and confidence leave out, too.
    tiny_cfg.DOMAIN_ADAPT.MASKS.REQUIRE_PEAK = True
    tiny_cfg.DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE = 0.9
    student = PromptDAS(tiny_cfg)
    tiny_cfg.MODEL.DEVICE = "cuda"
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(student, "cuda")
        teacher = make_teacher(student)
        labeler = PseudoLabeler(tiny_cfg, teacher, reported.update)
        optimizer = build_optimizer(tiny_cfg, student)
        student.train()
        average = MovingAverage(teacher, student)
        with NoWaiting():
            losses = propagate_nonfinite(student(source + labeler(target)))
            assert losses.keys() == {
                "loss_seg_source",
                "loss_det_source",
                "loss_seg_target",
                "loss_det_target",
                "loss_pcl",
            }
            for parameter in student.parameters():  # the backward pass needs a real GPU
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            average.update(0.99)
        values = [*losses.values(), *reported.values(), optimizer.skipped]
        assert {value.device.type for value in values} == {"cuda"}


def test_the_backward_pass_asks_for_no_value(tiny_cfg: CfgNode, samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, since autograd would ask for a real GPU; points stay padded, as they do there."""
    source, target = samples
    student = PromptDAS(tiny_cfg)
    labeled = PseudoLabeler(tiny_cfg, make_teacher(student), lambda metrics: None)(target)
    monkeypatch.setattr(structures, "pack_points", lambda points, valid: (points, valid))
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(student, "cpu").train()
        losses = propagate_nonfinite(student(source + labeled))
        sum(losses.values()).backward()
        assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_prediction_mixes_no_devices(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which prompts lie in which window depends on values, and is found on the CPU: here each has the same two."""
    monkeypatch.setattr(
        sliding_window,
        "points_of_windows",
        lambda points, valid, grid: (torch.rand(len(grid.corners), 3, 2, 2), torch.ones(len(grid.corners), 3, 2) > 0),
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs a driver
    model = PromptDAS(tiny_cfg).eval()
    prompts = {name: torch.rand(2, 2) for name in ("0%", "15%", "100%")}
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = to_fake(model, "cuda")
        out = network.predict_slice(torch.rand(1, 70, 90), prompts, (140, 180), with_density=True)
    assert out.keys() == {"sem_seg", "density"}
    for maps in out.values():
        assert maps.keys() == {"0%", "15%", "100%"}
        assert {(tuple(one.shape), one.device.type) for one in maps.values()} == {((140, 180), "cuda")}


# ---- the rehearsal itself


@pytest.mark.parametrize(
    "offence",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: 1 if x.any() else 0,
        lambda x: torch.equal(x, x),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: x + torch.ones(3),
        lambda x: x[[0, -1]],
        lambda x: x.__setitem__([0, -1], 1.0),
    ],
)
def test_what_a_gpu_would_wait_for_is_found(offence: Callable[[torch.Tensor], Any]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, device="cuda")
        with NoWaiting(), pytest.raises((AssertionError, RuntimeError)):  # those of fake tensors are RuntimeErrors
            offence(x)
