"""A loss or gradient that is not finite: the step is skipped, its batch is named and written to be replayed.

The decision is made on the device (:class:`~prompt_das.engine.solver.ClippedAdamW`), so such a number
reaches neither student nor teacher, and a GPU does not wait for the host, which reads the flag one step later.
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
from detectron2.config import CfgNode, configurable
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

logger = logging.getLogger(__name__)

MAX_WRITTEN = 5  # batches in a run; the student's weights are in each file


def propagate_nonfinite(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses whose gradient is not finite where the loss is not; the others stay what they are, to the bit.

    By itself an infinite loss may have a finite gradient. Several processes average their gradients, so a bad loss in
    one of them makes the gradient of all not finite, and all skip the step.
    """
    return {name: value * torch.where(torch.isfinite(value), 1.0, torch.nan) for name, value in losses.items()}


class NonFiniteGuard(HookBase):
    """Skips, logs and writes the batches of steps that are not finite. Comes before all hooks that read the weights."""

    @configurable
    def __init__(
        self,
        *,
        student: nn.Module,
        optimizer: ClippedAdamW,
        max_nonfinite_steps: int,
        batch_sizes: dict[str, int],
        seed: int,
        folder: Path,
        config: str,
    ) -> None:
        """
        Args:
            max_nonfinite_steps: consecutive ones after which the run stops.
            batch_sizes: images a batch, over all ranks, of "source" and "target".
            seed: of the streams of samples.
            folder: where batches are written.
            config: YAML of the run's config, written with each batch.
        """
        self.max_nonfinite_steps = max_nonfinite_steps
        self.batch_sizes = batch_sizes
        self.seed = seed
        self.folder = folder
        self.config = config
        self.student = unwrap(student)
        self.optimizer = optimizer
        self.consecutive = self.written = 0
        self.iteration = -1  # of the step in work, as its batch is
        self.batch: list[dict[str, Any]] = []
        self.losses: dict[str, Tensor] = {}
        # Iteration, batch and losses of a step whose flag the host has not read.
        self.unchecked: tuple[int, list[dict[str, Any]], dict[str, Tensor]] | None = None
        self.flag = torch.zeros(1, pin_memory=torch.cuda.is_available())
        self.flag_copied: torch.cuda.Event | None = None
        self.handles: list[Any] = []

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module, optimizer: ClippedAdamW) -> dict[str, Any]:
        return {
            "student": student,
            "optimizer": optimizer,
            "max_nonfinite_steps": cfg.SOLVER.MAX_NONFINITE_STEPS,
            "batch_sizes": {"source": cfg.SOLVER.IMS_PER_BATCH, "target": cfg.DATALOADER.TARGET_IMS_PER_BATCH},
            "seed": max(cfg.SEED, 0),
            "folder": Path(cfg.OUTPUT_DIR) / "bad_batches",
            "config": cfg.dump(),
        }

    def before_train(self) -> None:
        self.handles = [
            self.student.register_forward_hook(self.after_forward),
            self.optimizer.register_step_pre_hook(lambda *_: self.check_flag()),
            self.optimizer.register_step_post_hook(lambda *_: self.copy_flag()),
        ]

    def after_forward(self, student: nn.Module, args: tuple, losses: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not student.training:
            return None
        self.iteration, self.batch = self.trainer.iter, args[0]
        self.losses = propagate_nonfinite(losses)
        return self.losses

    def copy_flag(self) -> None:
        """Start copying the flag of the optimizer step that was just done to the host, without waiting for it."""
        self.flag.copy_(self.optimizer.skipped, non_blocking=True)
        if self.optimizer.skipped.is_cuda:
            self.flag_copied = torch.cuda.Event()
            self.flag_copied.record()
        self.unchecked = (self.iteration, self.batch, {name: value.detach() for name, value in self.losses.items()})

    def check_flag(self) -> None:
        """Read the flag of the step before; called before the next one, while the weights are still what they were."""
        if self.unchecked is None:
            return
        if self.flag_copied is not None:
            self.flag_copied.synchronize()
        (iteration, batch, losses), self.unchecked = self.unchecked, None
        if self.flag.item():
            bad = [name for name, value in losses.items() if not torch.isfinite(value)]
            self.log_step(iteration, batch, f"{' and '.join(bad) or 'a gradient'} is not finite")
        else:
            self.consecutive = 0

    def log_step(self, iteration: int, batch: list[dict[str, Any]], reason: str) -> None:
        self.consecutive += 1
        names = self.describe(iteration, batch)
        logger.warning(
            "Iteration %d is skipped: %s. Its batch, SEED %d: %s", iteration, reason, self.seed, "; ".join(names)
        )
        if self.written < MAX_WRITTEN:
            path = self.folder / f"iteration_{iteration:07d}_rank{comm.get_rank()}.pth"
            write_batch(path, iteration, batch, names, self.student, self.config)
            self.written += 1
            logger.warning(
                "It is in %s; `prompt-das replay-batch` shows which loss and which layer is not finite.", path
            )

    def describe(self, iteration: int, batch: list[dict[str, Any]]) -> list[str]:
        """Names of the crops: volume, slice, place, and number in the stream of samples, see data/build.py."""
        names, counts = [], dict.fromkeys(self.batch_sizes, 0)
        for sample in batch:
            domain = sample["domain"]
            size = self.batch_sizes[domain]
            first = iteration * size + comm.get_rank() * (size // comm.get_world_size())
            names.append(
                f"{domain} {sample['image_id']}, crop (y0, x0, y1, x1) {sample['box']}, sample {first + counts[domain]}"
            )
            counts[domain] += 1
        return names

    def after_step(self) -> None:
        if self.consecutive >= self.max_nonfinite_steps:
            raise FloatingPointError(
                f"{self.consecutive} consecutive steps had a loss or gradient that is not finite, the last one at "
                f"iteration {self.iteration}; SOLVER.MAX_NONFINITE_STEPS allows for fewer. So many different batches "
                "point to the weights or the settings: try a lower SOLVER.BASE_LR, longer SOLVER.WARMUP_ITERS or "
                f"MODEL.PRECISION float32, and replay {self.folder} with `prompt-das replay-batch`. "
                "The weights have not moved since the first of them."
            )

    def after_train(self) -> None:
        self.check_flag()
        for handle in self.handles:
            handle.remove()


def write_batch(
    path: Path, iteration: int, batch: list[dict[str, Any]], names: list[str], student: nn.Module, config: str
) -> None:
    """Write what :func:`replay` needs: the student's inputs, its weights, and the config (YAML) to build it with."""
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
    """Compute a skipped step again, with its batch and the weights of then, which are loaded into ``model``.

    Returns:
        the names of the crops, the losses, and the names of the parameters whose gradient is not finite.

    Raises:
        ValueError: ``path`` is damaged, or not the batch of a skipped step.
    """
    content = read_checkpoint(path)
    if not {"batch", "model", "names", "iteration"} <= content.keys():
        raise ValueError(f"{path} is not the batch of a skipped step; they are in OUTPUT_DIR/bad_batches")
    model.load_state_dict(content["model"])
    model.train().zero_grad()
    with EventStorage(content["iteration"]):
        losses = propagate_nonfinite(model(content["batch"]))
    sum(losses.values(), torch.zeros((), device=model.device)).backward()
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return content["names"], {name: value.item() for name, value in losses.items()}, bad
