"""The threshold of pseudo points on a new volume: by how high the density of the starting network is at the clicks.

On a volume that it has not seen a network's density is lower than where it was trained, and with the threshold of there
it has no peak at all.
"""

from __future__ import annotations

from prompt_das.adaptation.held_out_clicks import ClickWindows
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.points import POSITIVE

import numpy as np
import torch

REACH_SIGMAS = 2.0  # a center lies within so many sigmas of a click on its object
RATIO = 0.6  # of the median at the clicks: most centers are above, most of what is none is below
LOWEST = 0.05


@torch.no_grad()
def density_at_clicks(model: PromptDAS, windows: ClickWindows, sigma: float) -> np.ndarray:
    """The highest density near each positive click, predicted without prompts -> (n,)."""
    size, highest = model.window["batch_size"], []
    for start in range(0, len(windows), size):
        images = windows.images[start : start + size].to(model.device)
        none = images.new_zeros(len(images), 1, 0, 3)
        density = model.predict_windows_and_density(images, none, none[..., 0].bool())[:, 1].cpu().numpy()
        rows, columns = np.ogrid[: density.shape[1], : density.shape[2]]
        for one, (x, y, label) in zip(density, windows.clicks[start : start + size], strict=True):
            near = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= (REACH_SIGMAS * sigma) ** 2
            if label == POSITIVE:
                highest.append(float(one[near].max()))
    return np.array(highest)


def threshold_of(density: np.ndarray, most: float) -> float:
    """The threshold for a network with these densities (n,) at clicks; never above ``most``, its own."""
    return float(np.clip(RATIO * np.median(density), LOWEST, most)) if len(density) else most
