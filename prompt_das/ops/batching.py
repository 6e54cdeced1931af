"""From lists of dicts, as Detectron2 passes samples, to batches on a device; a GPU's copies do not make the host wait.

Shapes: B inputs, N points, padded with a validity mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_das.ops.points import pad_points

import numpy as np
import torch
from torch import Tensor


def stack(inputs: Sequence[Mapping[str, Any]], key: str, device: torch.device) -> Tensor:
    """The arrays of equal shape that the inputs have under ``key`` -> (B, ...)."""
    return torch.stack([torch.as_tensor(x[key]).to(device, non_blocking=True) for x in inputs])


def pad(inputs: Sequence[Mapping[str, Any]], key: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The (Ni, 2) points under ``key`` -> (B, N, 2), (B, N).

    An input may say under ``key + "_valid"`` which of its points are padding; without it, none is.
    """
    points = [torch.as_tensor(x[key]) for x in inputs]
    valid = [x.get(f"{key}_valid", torch.ones(len(p), dtype=torch.bool)) for x, p in zip(inputs, points, strict=True)]
    return pad_points(points, device, valid=valid)


def valid_points(x: Mapping[str, Any], key: str) -> np.ndarray:
    """The points of one input without padding, (N, 2), to be drawn for example: this waits for a GPU."""
    (points,), (valid,) = pad([x], key, torch.device("cpu"))
    return points[valid].numpy()
