"""Checkpoints of a run: written whole or not at all, the newest two kept, with student and teacher in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.checkpoint.safe_load import CONFIG, DamagedCheckpointError, check_weights, read_checkpoint
from prompt_das.checkpoint.state_dict import expected_of, require_matching_state
from prompt_das.utils.atomic_write import atomic_write

import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

BEST = "model_best"
SOURCE = "model_source"  # at the end of burn-in
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
LAST, PREVIOUS = "last_checkpoint", "previous_checkpoint"  # files that name the two to resume from


class PromptDASCheckpointer(Checkpointer):
    """fvcore's checkpointer with safe reading, atomic writing and strict names.

    ``weights_from``: which weights are taken where ``MODEL.WEIGHTS`` is a training checkpoint, those of the "teacher"
    (where there is one) or of the "model", the student.

    The newest two numbered checkpoints of a run are kept. The files ``last_checkpoint`` and ``previous_checkpoint``
    name the two to resume from: these are of one run, whatever else lies in the folder.

    ``config``, the YAML of the run, is written into every checkpoint, so that it can be opened wherever it lies.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        weights_from: str = "teacher",
        config: str = "",
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.weights_from = weights_from
        self.config = config
        self.weights_only = False
        self.newest = ""  # the last one that this run wrote, or that it was resumed from
        self.loading = ""  # for messages

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth; a crash leaves the file of before. The best checkpoint is not one to resume from.

        Raises:
            OSError: it could not be written, for example because the disk is full. What was there before is intact.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **{k: v.state_dict() for k, v in self.checkpointables.items()}}
        if self.config:
            data[CONFIG] = self.config
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_write(path) as part:
                torch.save(data, part)
            if name not in (BEST, SOURCE):
                self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as e:  # torch's own writer raises the latter
            intact = f"{self.newest} is intact" if self.newest else "There is none from before"
            raise OSError(
                f"the checkpoint {path} could not be written: {e}. {intact}. Is the disk full, or a quota used up? "
                "Make room, then continue with --resume."
            ) from e
        self.remove_older(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint to resume from, and the one to fall back to. At no moment is there none."""
        folder = Path(self.save_dir)
        if not self.newest:
            (folder / PREVIOUS).unlink(missing_ok=True)  # it would be another run's
        elif self.newest != last_filename_basename:
            write_name(folder / PREVIOUS, self.newest)
        write_name(folder / LAST, last_filename_basename)
        self.newest = last_filename_basename

    def remove_older(self, name: str) -> None:
        """Remove the numbered checkpoints before ``name`` but one, and what a process that was killed left behind."""
        folder = Path(self.save_dir)
        for part in folder.glob("model_*.pth.*.part"):
            part.unlink(missing_ok=True)
        new, kept = number_of(name), self.tagged()
        for path in folder.glob("model_*.pth"):
            if 0 <= number_of(path.name) < new and path.name not in kept:
                path.unlink(missing_ok=True)

    def tagged(self) -> list[str]:
        """The names of the checkpoints to resume from, the best one first."""
        files = [Path(self.save_dir) / tag for tag in (LAST, PREVIOUS)]
        names = [Path(file.read_text(errors="replace").strip()).name for file in files if file.is_file()]
        return list(dict.fromkeys(name for name in names if name))

    def has_checkpoint(self) -> bool:
        return bool(self.save_dir and self.tagged())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from the newest checkpoint that can be read, with ``resume``; else take the weights of ``path``.

        Raises:
            DamagedCheckpointError: there are checkpoints to resume from, and none of them can be read.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        problems: list[str] = []
        for name in self.tagged():
            try:
                rest = self.load(str(Path(self.save_dir) / name))
            except (DamagedCheckpointError, FileNotFoundError) as e:
                problems.append(f"{name}: {e}")
                continue
            if problems:
                self.logger.warning("Resuming from %s, since a newer one cannot be read: %s", name, problems[0])
            self.newest = name
            return rest
        raise DamagedCheckpointError(
            f"no checkpoint in {self.save_dir} can be read. {'; '.join(problems)}. "
            f"Restore one of them, or remove {LAST} and {PREVIOUS} to start anew."
        )

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load everything (resume) or, with ``checkpointables=[]``, only the weights (``MODEL.WEIGHTS``).

        Args:
            path: a file, or the name of a model, see :mod:`prompt_das.checkpoint.model_zoo`; "" loads nothing.

        Raises:
            FileNotFoundError: there is no such file or model.
            DamagedCheckpointError: the file is damaged.
            ValueError: it holds no weights, others than the network's, or not the state of a run that is resumed.
        """
        self.weights_only = checkpointables is not None
        path = str(find_weights(path)) if path else path
        self.loading = path
        try:
            return super().load(path, checkpointables)
        except (RuntimeError, TypeError, LookupError, AttributeError) as e:  # from a load_state_dict
            raise ValueError(f"{path} does not hold the state of such a run: {type(e).__name__}: {e}") from e

    def _load_file(self, f: str) -> dict[str, Any]:
        content = read_checkpoint(f)
        if "model" not in content:
            content = {"model": content}
        if self.weights_only and self.weights_from in content:
            self.logger.info("Taking the weights of the %s", "teacher" if self.weights_from == "teacher" else "student")
            content["model"] = content[self.weights_from]
        content["model"] = check_weights(content["model"], f)
        missing = [] if self.weights_only else [name for name in self.checkpointables if name not in content]
        if missing:
            raise ValueError(
                f"{f} has no {' and no '.join(missing)}: it is no run to resume. Begin with its weights instead: "
                "MODEL.WEIGHTS without --resume"
            )
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        """Load the weights strictly, where fvcore logs a warning; "module." comes from DistributedDataParallel."""
        state = checkpoint.pop("model")
        if all(name.startswith("module.") for name in state):
            state = {name.removeprefix("module."): value for name, value in state.items()}
        message = f"{self.loading}: the weights do not fit the network of this config."
        require_matching_state(state, expected_of(self.model.state_dict()), message)
        self.model.load_state_dict(state)


def number_of(name: str) -> int:
    """``model_0000123.pth`` -> 123; -1 for other names."""
    match = NUMBERED.fullmatch(name)
    return int(match[1]) if match else -1


def write_name(tag: Path, name: str) -> None:
    """Write ``name`` into the file ``tag``, which holds the old name or the new one at every moment."""
    with atomic_write(tag) as part:
        part.write_text(name)
