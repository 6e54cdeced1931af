"""Checkpoints: read safely, written whole or not at all, with student and teacher in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .files import whole_file
from .reference_weights import convert_reference_state_dict

__all__ = [
    "BEST",
    "PromptDASCheckpointer",
    "convert_reference_state_dict",
    "export_weights",
    "read_checkpoint",
    "read_metadata",
]

BEST = "model_best"
DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    SafetensorError,
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a ``.pth`` or ``.safetensors`` file on the CPU. Nothing in it is ever executed.

    Returns:
        what the file holds: for a training checkpoint a dict with "model" and "teacher", else a plain state dict.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds anything else than tensors and plain Python containers.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; check MODEL.WEIGHTS")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ValueError(f"{path} was refused, since it holds more than weights: {e}") from e
    except DAMAGED as e:
        raise ValueError(f"{path} is not a readable checkpoint (truncated, or another format): {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def export_weights(path: str | Path, state: dict[str, Tensor], config: str, **about: str) -> None:
    """Write weights for sharing as safetensors, with the config (YAML) and ``about`` in the metadata."""
    metadata = {"format": "pt", "prompt_das.config": config, **about}
    with whole_file(path) as part:
        save_file({name: value.contiguous() for name, value in state.items()}, part, metadata)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, ``"prompt_das.config"`` among them; {} for other files."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as f:
            return f.metadata() or {}
    except DAMAGED as e:
        raise ValueError(f"{path} is not a readable safetensors file: {e}") from e


class PromptDASCheckpointer(Checkpointer):
    """fvcore's checkpointer with safe reading, atomic writing and strict names.

    ``weights_from`` says whose weights a checkpoint's ``MODEL.WEIGHTS`` are: "teacher" (where there is one) or "model".
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, weights_from: str = "teacher", **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.weights_from = weights_from
        self.wants_weights_only = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth; a crash leaves the file of before. The best checkpoint is not one to resume from."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **{k: v.state_dict() for k, v in self.checkpointables.items()}}
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        with whole_file(path) as part:
            torch.save(data, part)
        if name != BEST:
            self.tag_last_checkpoint(path.name)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load everything (resume) or, with ``checkpointables=[]``, only the weights (``MODEL.WEIGHTS``)."""
        self.wants_weights_only = checkpointables is not None
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"no weights at {path}; check MODEL.WEIGHTS")
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        content = read_checkpoint(f)
        if "model" not in content:
            content = {"model": content}
        if self.wants_weights_only and self.weights_from in content:
            self.logger.info("Taking the weights of the %s", "teacher" if self.weights_from == "teacher" else "student")
            content["model"] = content[self.weights_from]
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        problems = {
            "missing": incompatible.missing_keys,
            "unexpected": incompatible.unexpected_keys,
            "of another shape (file, model)": incompatible.incorrect_shapes,
        }
        if any(problems.values()):
            listed = "; ".join(f"{what}: {names}" for what, names in problems.items() if names)
            raise ValueError(f"the weights do not fit the network of this config. {listed}")
        return incompatible
