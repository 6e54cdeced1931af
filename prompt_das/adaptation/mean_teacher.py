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


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher = decay * teacher + (1 - decay) * student, by name; buffers and integer tensors are copied.

    Raises:
        KeyError: if the student lacks a parameter or buffer of the teacher.
    """
    parameters = dict(student.named_parameters())
    buffers = dict(student.named_buffers())
    mine: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    for name, parameter in teacher.named_parameters():
        mine.append(parameter)
        theirs.append(parameters[name].detach())
    torch._foreach_lerp_(mine, theirs, 1 - decay)
    for name, buffer in teacher.named_buffers():
        buffer.copy_(buffers[name])


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
        self.student = unwrap(student)
        self.decay = decay
        self.ramp_up = ramp_up

    def after_step(self) -> None:
        rising = 1 - 1 / (self.trainer.iter + 1) if self.ramp_up else 1.0
        update_teacher(self.teacher, self.student, min(rising, self.decay))
