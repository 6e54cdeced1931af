"""From lists of dicts, as Detectron2 passes samples, to batches on a device; copies to a GPU are asynchronous.

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
    """Stack the arrays of equal shape under ``key`` -> (B, ...)."""
    return torch.stack([torch.as_tensor(x[key]).to(device, non_blocking=True) for x in inputs])


def pad(inputs: Sequence[Mapping[str, Any]], key: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad the (Ni, 2) points under ``key``, or (Ni, 3) clicks -> (B, N, 2 or 3), and validity (B, N) bool.

    An input may hold the validity (Ni,) of its points under ``key + "_valid"``; without it, all are valid.
    """
    points = [torch.as_tensor(x[key]) for x in inputs]
    valid = [x.get(f"{key}_valid", torch.ones(len(p), dtype=torch.bool)) for x, p in zip(inputs, points, strict=True)]
    return pad_points(points, device, valid=valid)


def valid_points(x: Mapping[str, Any], key: str) -> np.ndarray:
    """The points of one input without padding, (N, 2), on the host: waits for a GPU."""
    (points,), (valid,) = pad([x], key, torch.device("cpu"))
    return points[valid].numpy()
