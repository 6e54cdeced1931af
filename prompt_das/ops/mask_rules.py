"""What follows the network in a slice: rules about clicks and objects, applied to the probability of its mask."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_das.ops.click_reach import limit_to_clicked_objects
from prompt_das.ops.weak_components import suppress_weak_components

import numpy as np


@dataclass(frozen=True)
class MaskRules:
    """The rules, in the order in which they are applied. The result depends on the set of clicks, not on their order.

    Attributes:
        click_reach: what a click may change: all of the "image", or the "object" that it is on.
        min_confidence: components whose highest probability is below become background, but for clicked ones; 0: none.
    """

    click_reach: str = "image"
    min_confidence: float = 0.0

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return self != MaskRules()

    def needs_automatic(self, clicks: np.ndarray) -> bool:
        """Whether the prediction without clicks is needed beside the one with the clicks (N, 3)."""
        return self.click_reach == "object" and len(clicks) > 0

    def __call__(self, probability: np.ndarray, automatic: np.ndarray | None, clicks: np.ndarray) -> np.ndarray:
        """Apply the rules to a slice, or to a part of one.

        Args:
            probability: (H, W) of the foreground with the clicks; NaN where it is not known.
            automatic: (H, W) without clicks, where :meth:`needs_automatic`.
            clicks: (N, 3) as (x, y, label) in pixels.
        """
        if automatic is not None and self.needs_automatic(clicks):
            probability = limit_to_clicked_objects(automatic, probability, clicks)
        if self.min_confidence:
            probability = suppress_weak_components(probability, self.min_confidence, clicks)
        return probability
