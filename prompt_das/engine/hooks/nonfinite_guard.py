"""A loss or gradient that is not finite: the step is left out, its batch is named and written aside to be replayed.

The decision is made on the device (:class:`~prompt_das.engine.solver.ClippedAdamW`), so neither student nor teacher
ever sees such a number, and a GPU does not wait for the host, which looks one step later.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prompt_das.adaptation.mean_teacher import unwrap
from prompt_das.checkpoint.safe_load import CONFIG, read_checkpoint
from prompt_das.engine.solver import ClippedAdamW
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.utils.atomic_write import atomic_write

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

logger = logging.getLogger(__name__)

MAX_WRITTEN = 5  # batches in a run; the student's weights are in each file


def propagate_nonfinite(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """A loss that is not finite gets a gradient that is not; the others stay what they are, to the bit.

    By itself an infinite loss may have a finite gradient. Several processes average their gradients, so all of them
    see that one had a bad loss, and all leave the step out.
    """
    return {name: value * torch.where(torch.isfinite(value), 1.0, torch.nan) for name, value in losses.items()}


class NonFiniteGuard(HookBase):
    """Comes before all hooks that look at the weights."""

    def __init__(self, cfg: CfgNode, student: nn.Module, optimizer: ClippedAdamW) -> None:
        self.max_nonfinite_steps = cfg.SOLVER.MAX_NONFINITE_STEPS
        self.batch_sizes = {"source": cfg.SOLVER.IMS_PER_BATCH, "target": cfg.DATALOADER.TARGET_IMS_PER_BATCH}
        self.seed = max(cfg.SEED, 0)
        self.folder = Path(cfg.OUTPUT_DIR) / "bad_batches"
        self.config = cfg.dump()
        self.student = unwrap(student)
        self.optimizer = optimizer
        self.in_a_row = self.written = 0
        self.iteration = -1  # of the step in work, as its batch is
        self.batch: list[dict[str, Any]] = []
        self.losses: dict[str, Tensor] = {}
        # Iteration, batch and losses of a step whose flag the host has not read.
        self.unseen: tuple[int, list[dict[str, Any]], dict[str, Tensor]] | None = None
        self.flag = torch.zeros(1, pin_memory=torch.cuda.is_available())
        self.flag_copied: torch.cuda.Event | None = None
        self.handles: list[Any] = []

    def before_train(self) -> None:
        self.handles = [
            self.student.register_forward_hook(self.after_forward),
            self.optimizer.register_step_pre_hook(lambda *_: self.look()),
            self.optimizer.register_step_post_hook(lambda *_: self.copy_flag()),
        ]

    def after_forward(self, student: nn.Module, args: tuple, losses: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not student.training:
            return None
        self.iteration, self.batch = self.trainer.iter, args[0]
        self.losses = propagate_nonfinite(losses)
        return self.losses

    def copy_flag(self) -> None:
        """After an optimizer step: send its verdict to the host, who does not wait for it."""
        self.flag.copy_(self.optimizer.skipped, non_blocking=True)
        if self.optimizer.skipped.is_cuda:
            self.flag_copied = torch.cuda.Event()
            self.flag_copied.record()
        self.unseen = (self.iteration, self.batch, {name: value.detach() for name, value in self.losses.items()})

    def look(self) -> None:
        """Before the next optimizer step: the verdict has long arrived, and the weights are still what they were."""
        if self.unseen is None:
            return
        if self.flag_copied is not None:
            self.flag_copied.synchronize()
        (iteration, batch, losses), self.unseen = self.unseen, None
        if self.flag.item():
            bad = [name for name, value in losses.items() if not torch.isfinite(value)]
            self.note(iteration, batch, f"{' and '.join(bad) or 'a gradient'} is not finite")
        else:
            self.in_a_row = 0

    def note(self, iteration: int, batch: list[dict[str, Any]], reason: str) -> None:
        self.in_a_row += 1
        names = self.describe(iteration, batch)
        logger.warning(
            "Iteration %d is left out: %s. Its batch, SEED %d: %s", iteration, reason, self.seed, "; ".join(names)
        )
        if self.written < MAX_WRITTEN:
            path = self.folder / f"iteration_{iteration:07d}_rank{comm.get_rank()}.pth"
            write_batch(path, iteration, batch, names, self.student, self.config)
            self.written += 1
            logger.warning("It is in %s; `prompt-das replay-batch` shows which loss and which layer it is.", path)

    def describe(self, iteration: int, batch: list[dict[str, Any]]) -> list[str]:
        """For each crop its volume, slice, place, and number in the stream of samples, see data/build.py."""
        names, counts = [], dict.fromkeys(self.batch_sizes, 0)
        for x in batch:
            size = self.batch_sizes[x["domain"]]
            first = iteration * size + comm.get_rank() * (size // comm.get_world_size())
            number = first + counts[x["domain"]]
            counts[x["domain"]] += 1
            names.append(f"{x['domain']} {x['image_id']}, crop (y0, x0, y1, x1) {x['box']}, sample {number}")
        return names

    def after_step(self) -> None:
        if self.in_a_row >= self.max_nonfinite_steps:
            raise FloatingPointError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite, the last one at iteration "
                f"{self.iteration}; SOLVER.MAX_NONFINITE_STEPS allows for fewer. So many different batches point to "
                "the weights or the settings: try a lower SOLVER.BASE_LR, longer SOLVER.WARMUP_ITERS or "
                f"MODEL.PRECISION float32, and look at {self.folder} with `prompt-das replay-batch`. "
                "The weights have not moved since the first of them."
            )

    def after_train(self) -> None:
        self.look()
        for handle in self.handles:
            handle.remove()


def write_batch(
    path: Path, iteration: int, batch: list[dict[str, Any]], names: list[str], student: nn.Module, config: str
) -> None:
    """Keep what :func:`replay` needs: the student's inputs, its weights, and the config (YAML) to build it with."""
    content = {
        "iteration": iteration,
        "names": names,
        "batch": plain(batch),
        "model": student.state_dict(),
        CONFIG: config,
    }
    with atomic_write(path) as part:
        torch.save(content, part)


def plain(value: Any) -> Any:
    """Tensors and plain Python containers instead of NumPy and sets, so that the file can be read safely."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    return value


def replay(model: PromptDAS, path: str | Path) -> tuple[list[str], dict[str, float], list[str]]:
    """Do a step that was left out again, with the weights and the batch of then, but without moving ``model``'s.

    Returns:
        the names of the crops, the losses, and the names of the parameters whose gradient is not finite.

    Raises:
        ValueError: ``path`` is damaged, or no batch that was written aside.
    """
    content = read_checkpoint(path)
    if not {"batch", "model", "names", "iteration"} <= content.keys():
        raise ValueError(f"{path} is no batch of a step that was left out; they are in OUTPUT_DIR/bad_batches")
    model.load_state_dict(content["model"])
    model.train().zero_grad()
    with EventStorage(content["iteration"]):
        losses = propagate_nonfinite(model(content["batch"]))
    sum(losses.values(), torch.zeros((), device=model.device)).backward()
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return content["names"], {name: value.item() for name, value in losses.items()}, bad
