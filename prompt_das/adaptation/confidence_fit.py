"""How sure of an object the teacher has to be in a volume, from the objects that were clicked there.

``TEST.MIN_CONFIDENCE`` of the weights was chosen on other volumes. In one where the network is less sure of everything,
many true objects would become background in the pseudo-labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_das.adaptation.held_out_clicks import ClickWindows, component_at, some_positive
from prompt_das.adaptation.outline_fit import probability_of_logit
from prompt_das.data.crop_reader import CropReader
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.postprocessing import confidence_at_outline

import numpy as np

logger = logging.getLogger(__name__)

MOST_CLICKS = 64  # whose places are looked at
REACHED = 0.85  # of the clicked objects that the network finds by itself
LEAST = 0.9  # lower was not tried
# Few say little, and those that were proposed lie where the network is in doubt (docs/EXPERIMENTS.md).
ENOUGH_OBJECTS = 20


def fit_confidence(
    model: PromptDAS,
    slices: Sequence[dict[str, Any]],
    clicks: Mapping[int, np.ndarray],
    crop: CropReader,
    most: float,
) -> float:
    """The DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE that most of the clicked objects reach, found without clicks (REACHED).

    Args:
        model: the starting network, in eval mode.
        slices, crop: see :class:`~prompt_das.adaptation.held_out_clicks.ClickWindows`.
        clicks: (n, 3) by slice.
        most: the one of the weights; the result is no higher, and no lower than :data:`LEAST` if this is not. It stays
            where fewer than :data:`ENOUGH_OBJECTS` clicked objects are found.
    """
    windows = ClickWindows(slices, some_positive(clicks, MOST_CLICKS), crop)
    confidence = usual_confidence(highest_at_clicks(windows, model), most)
    if confidence < most:
        logger.info(
            "Objects count from a confidence of %.3f on in the pseudo-labels, not from %.3f: most that were clicked "
            "reach it",
            *(confidence, most),
        )
    return confidence


def usual_confidence(highest: np.ndarray, most: float) -> float:
    """The confidence that :data:`REACHED` of the objects found reach, between :data:`LEAST` and ``most``.

    Args:
        highest: (N,) probability of the object at each click, the network's own; 0 where there is none.
    """
    found = highest[highest > 0]
    if len(found) < ENOUGH_OBJECTS:
        return most
    return min(max(round(float(np.quantile(found, 1 - REACHED)), 3), LEAST), most)


def highest_at_clicks(windows: ClickWindows, model: PromptDAS) -> np.ndarray:
    """The highest probability of the object at each click, found without any -> (N,), the network's own; 0: none."""
    highest = np.zeros(len(windows))
    own = probability_of_logit(-model.outline_logit)  # moves outlines back to where the network puts them
    for i, (probability, click) in enumerate(zip(windows.predict(model), windows.clicks, strict=True)):
        at_click = probability[component_at(probability, click)]
        highest[i] = confidence_at_outline(float(at_click.max(initial=0)), own)
    return highest
