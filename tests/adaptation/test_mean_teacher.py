"""The mean teacher: an exponential moving average that never learns by itself."""

from __future__ import annotations

from types import SimpleNamespace

from prompt_das.adaptation.mean_teacher import MeanTeacher, MovingAverage, make_teacher, unwrap

import pytest
import torch
from torch import nn


class Network(nn.Module):
    """One number to average, a buffer of fractions and a counter."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))
        self.register_buffer("frequencies", torch.tensor([value]))
        self.register_buffer("steps", torch.tensor(int(value)))
        self.dropout = nn.Dropout()


def hook(student: nn.Module, decay: float = 0.99) -> MeanTeacher:
    return MeanTeacher(make_teacher(student), student, decay)


def after_step(teaching: MeanTeacher, iteration: int) -> None:
    teaching.trainer = SimpleNamespace(iter=iteration)
    teaching.after_step()


def test_the_average_by_hand() -> None:
    teacher, student = Network(10.0), Network(20.0)
    MovingAverage(teacher, student).update(0.9)
    assert teacher.value.item() == pytest.approx(0.9 * 10 + 0.1 * 20)
    MovingAverage(teacher, student).update(0.9)
    assert teacher.value.item() == pytest.approx(0.9 * 11 + 0.1 * 20)
    assert student.value.item() == 20


def test_buffers_are_copied_not_averaged() -> None:
    teacher, student = Network(10.0), Network(20.0)
    MovingAverage(teacher, student).update(0.9)
    assert teacher.frequencies.item() == 20
    assert teacher.steps.item() == 20
    assert teacher.steps.dtype == torch.int64


def test_averaging_goes_by_name() -> None:
    """The order in which a module declares its parameters does not matter."""

    def network(*names: str) -> nn.Module:
        return nn.ParameterDict({name: torch.tensor([float(ord(name))]) for name in names})

    teacher = network("a", "b")
    MovingAverage(teacher, network("b", "a")).update(0.5)
    assert {name: p.item() for name, p in teacher.named_parameters()} == {"a": ord("a"), "b": ord("b")}


def test_a_student_of_another_kind_is_refused() -> None:
    with pytest.raises(KeyError, match="value"):
        MovingAverage(Network(), nn.Linear(1, 1)).update(0.9)


def test_the_decay_grows_until_its_limit() -> None:
    """Step by step 1 - 1 / (step + 1): 0, 1/2, 2/3, ... so that the teacher is first a copy, then a plain mean."""
    student = Network(0.0)
    teaching = hook(student, decay=0.7)
    seen = []
    for step, value in enumerate([4.0, 8.0, 3.0, 10.0, 10.0]):
        student.value.data.fill_(value)
        after_step(teaching, step)
        seen.append(teaching.teacher.value.item())
    third = (4 + 8 + 3) / 3
    fourth = 0.7 * third + 0.3 * 10  # 3/4 would be more than 0.7
    assert seen == pytest.approx([4, (4 + 8) / 2, third, fourth, 0.7 * fourth + 0.3 * 10])


def test_a_run_that_was_stopped_goes_on_with_its_decay() -> None:
    """The step is the iteration of the run, not the number of calls."""
    student = Network(0.0)
    teaching = hook(student)
    student.value.data.fill_(1.0)
    after_step(teaching, 49)
    assert teaching.teacher.value.item() == pytest.approx(1 / 50)


def test_the_teacher_is_a_copy_that_is_never_trained() -> None:
    student = Network(1.0)
    student.train()
    teacher = make_teacher(student)
    assert not teacher.training
    assert not teacher.dropout.training
    assert student.training
    assert all(not p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    student.value.data.fill_(5.0)
    assert teacher.value.item() == 1


def test_an_update_leaves_no_gradient_and_no_graph_behind() -> None:
    student = Network(1.0)
    teaching = hook(student)
    (student.value * 3).sum().backward()
    after_step(teaching, 5)
    (teacher_value,) = teaching.teacher.parameters()
    assert teacher_value.grad is None
    assert teacher_value.grad_fn is None
    assert not teacher_value.requires_grad
    assert not teaching.teacher.training
    assert student.value.grad is not None
    assert student.value.grad.item() == 3


def test_averages_are_float32_and_a_small_change_is_not_lost() -> None:
    """With bfloat16, of 8 bits, 1 + 0.01 * 0.1 would stay 1."""
    teacher, student = Network(1.0), Network(1.1)
    assert teacher.value.dtype == torch.float32
    MovingAverage(teacher, student).update(0.99)
    assert teacher.value.item() == pytest.approx(1.001, abs=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_an_impossible_decay_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"DOMAIN_ADAPT.TEACHER.EMA_DECAY is {decay}; it must be in \[0, 1\)"):
        hook(Network(), decay)


def test_the_network_inside_distributed_data_parallel_is_found() -> None:
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:  # without the processes it needs
            nn.Module.__init__(self)
            self.module = module

    student = Network(2.0)
    assert unwrap(student) is student
    assert unwrap(Wrapped(student)) is student
    teaching = MeanTeacher(make_teacher(Wrapped(student)), Wrapped(student), 0.9)
    student.value.data.fill_(4.0)
    after_step(teaching, 1)
    assert teaching.teacher.value.item() == 3
