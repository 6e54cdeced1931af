"""What follows the network in a whole slice: clicks that reach no further than their objects, no weak components.

Shape legend: S prompt sets; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from prompt_das.ops.click_reach import limit_to_clicked_objects
from prompt_das.ops.weak_components import suppress_weak_components

import numpy as np
import torch
from torch import Tensor


def limit_clicks(automatic: Tensor, prompted: Tensor, clicks: Sequence[np.ndarray]) -> Tensor:
    """Predictions (H, W) without clicks, (S, H, W) with those of each set -> (S, H, W), limited to clicked objects."""
    without = automatic.cpu().numpy()
    limited = [limit_to_clicked_objects(without, p.cpu().numpy(), c) for p, c in zip(prompted, clicks, strict=True)]
    return torch.from_numpy(np.stack(limited)).to(prompted)


def confidence_at_outline(confidence: float, outline_probability: float) -> float:
    """A probability of the network itself, as it is in predictions whose outlines are moved to 0.5; 0 and 1 stay.

    That there is an object does not depend on where its outline is drawn.
    """
    yes, no = confidence * (1 - outline_probability), (1 - confidence) * outline_probability
    return yes / (yes + no)


def suppress_weak(probability: Tensor, confidence: float, clicks: Sequence[np.ndarray]) -> Tensor:
    """Predictions (S, H, W) with the clicks of each set -> (S, H, W) without components of low confidence."""
    maps = probability.cpu().numpy()
    kept = [suppress_weak_components(p, confidence, c) for p, c in zip(maps, clicks, strict=True)]
    return torch.from_numpy(np.stack(kept)).to(probability)
