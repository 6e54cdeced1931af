"""The threshold at which the objects of a slice have the diameter that the user states."""

from __future__ import annotations

from prompt_das.adaptation.outline_fit import ENOUGH_OBJECTS, logit_of_diameter, probability_of_logit
from prompt_das.napari.image_session import ImageSession
from prompt_das.napari.messages import Response

import numpy as np

LARGEST = 2048  # pixels of a side of what is looked at, in the middle of a larger slice


def fitted_threshold(image_session: ImageSession, z: int | None, response: Response | None) -> float:
    """The threshold for an image, from the newest complete response.

    Args:
        z: the slice in view.

    Raises:
        ValueError: no diameter is stated, the slice is not segmented, or has too few objects; says what to do.
    """
    if not image_session.diameter:
        raise ValueError("What is the diameter of a typical object? Drag a line across one with 'From a line'")
    if response is None or response.request.volume is not image_session.volume or response.request.z != z:
        raise ValueError("The slice in view is not segmented yet: try again when it is")
    logit, found = logit_of_diameter([middle(response.segmentation.probability)], image_session.diameter)
    if logit is None:
        raise ValueError(
            f"The network is sure of {found} whole objects in this slice; {ENOUGH_OBJECTS} are needed to speak of a "
            "typical one: go to a slice with more, or set the threshold by hand"
        )
    return round(probability_of_logit(logit), 2)


def middle(probability: np.ndarray) -> np.ndarray:
    """(H, W) -> at most (LARGEST, LARGEST) in the middle of it."""
    top, left = (max(side - LARGEST, 0) // 2 for side in probability.shape)
    return probability[top : top + LARGEST, left : left + LARGEST]
