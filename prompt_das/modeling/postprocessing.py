"""What follows the network in a whole slice, on tensors.

Shape legend: S prompt sets; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prompt_das.ops.mask_rules import MaskRules

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Number = TypeVar("Number", float, np.ndarray)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (S, H', W') at the scale of the network -> (S, H, W) at ``size``."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def apply_rules(rules: MaskRules, prompted: Tensor, automatic: Tensor | None, clicks: Sequence[np.ndarray]) -> Tensor:
    """Predictions (S, H, W) with the clicks of each set, and (H, W) without -> (S, H, W) that follow the rules."""
    without = None if automatic is None else automatic.cpu().numpy()
    maps = [rules(p, without, c) for p, c in zip(prompted.cpu().numpy(), clicks, strict=True)]
    return torch.from_numpy(np.stack(maps)).to(prompted)


def confidence_at_outline(confidence: Number, outline_probability: float) -> Number:
    """Probabilities of the network itself, as they are in predictions whose outlines are moved to 0.5; 0 and 1 stay.

    That there is an object does not depend on where its outline is drawn.
    """
    yes, no = confidence * (1 - outline_probability), (1 - confidence) * outline_probability
    return yes / (yes + no)
