"""The mean teacher: an exponential moving average of the student (Prompt-DAS, Sec. 2.2)."""

from __future__ import annotations

import copy

import torch
from detectron2.engine import HookBase
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, or the network itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def make_teacher(student: nn.Module) -> nn.Module:
    """A copy of the student that is never trained and always in eval mode."""
    teacher = copy.deepcopy(unwrap(student))
    teacher.requires_grad_(False)
    return teacher.eval()


class MovingAverage:
    """A teacher and its student, their parameters and buffers paired by name once: walking modules takes longer than
    averaging them."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        """
        Raises:
            KeyError: if the student lacks a parameter or buffer of the teacher.
        """
        parameters, buffers = dict(student.named_parameters()), dict(student.named_buffers())
        self._parameters = [(parameter, parameters[name]) for name, parameter in teacher.named_parameters()]
        self._buffers = [(buffer, buffers[name]) for name, buffer in teacher.named_buffers()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """teacher = decay * teacher + (1 - decay) * student; buffers and integer tensors are copied."""
        mine, theirs = zip(*self._parameters, strict=True)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for buffer, new in self._buffers:
            buffer.copy_(new)


class MeanTeacher(HookBase):
    """Moves the teacher after every optimizer step; comes first, so checkpoints and evaluations see it moved."""

    def __init__(self, teacher: nn.Module, student: nn.Module, decay: float, ramp_up: bool = True) -> None:
        """
        Args:
            ramp_up: in the first iterations the decay is 1 - 1 / (step + 1), so that the teacher follows at once;
                without, it is ``decay`` from the first one on.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"DOMAIN_ADAPT.TEACHER.EMA_DECAY is {decay}; it must be in [0, 1)")
        self.teacher = teacher
        self.average = MovingAverage(teacher, unwrap(student))
        self.decay = decay
        self.ramp_up = ramp_up

    def after_step(self) -> None:
        rising = 1 - 1 / (self.trainer.iter + 1) if self.ramp_up else 1.0
        self.average.update(min(rising, self.decay))
