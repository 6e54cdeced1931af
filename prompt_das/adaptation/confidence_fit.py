"""How sure of an object the teacher has to be in a volume, and how sure the network that comes of it.

``TEST.MIN_CONFIDENCE`` of the weights was chosen on other volumes. In one where the network is less sure of everything,
many true objects would become background in the pseudo-labels; and in a prediction, where an adaptation has made it
less sure of everything.

Shapes: N windows of S x S pixels of the network.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from prompt_das.adaptation.held_out_clicks import ClickWindows, component_at, some_positive
from prompt_das.adaptation.outline_fit import choose_places, probability_of_logit
from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.data.crop_reader import CropReader
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.postprocessing import confidence_at_outline
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, connected_components

import numpy as np
from scipy import ndimage

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
    for i, (probability, click) in enumerate(zip(windows.predict(model), windows.clicks, strict=True)):
        highest[i] = probability[component_at(probability, click)].max(initial=0)
    return own_probability(model, highest)


class CarriedConfidence:
    """Carries a confidence over to an adapted network: to where it leaves as many objects as it leaves of the start.

    The objects are counted in windows anywhere in the volume.
    """

    def __init__(
        self,
        start: PromptDAS,
        slices: Sequence[dict[str, Any]],
        crop: CropReader,
        confidence: float,
        corrupt: CorruptSlices,
    ) -> None:
        """
        Args:
            start: the network before the adaptation, in eval mode; it is used here and not kept.
            slices, crop: see :class:`~prompt_das.adaptation.held_out_clicks.ClickWindows`.
            confidence: TEST.MIN_CONFIDENCE of the start.
            corrupt: takes slices that cannot be read.
        """
        places = choose_places(slices, {})
        chosen = [dataset_dict for dataset_dict in slices if dataset_dict["slice"] in places]

        def read(dataset_dict: dict[str, Any]) -> ClickWindows:
            return ClickWindows([dataset_dict], {dataset_dict["slice"]: places[dataset_dict["slice"]]}, crop)

        self.confidence = confidence
        self.windows = [windows for _, windows in corrupt.read(chosen, read)]
        self.number = int((highest_of_objects(self.windows, start) >= confidence).sum())

    def __call__(self, adapted: PromptDAS) -> float:
        """The confidence of a network in eval mode with the outlines of the start; never higher than the start's."""
        carried = confidence_of_number(highest_of_objects(self.windows, adapted), self.number, self.confidence)
        if carried < self.confidence:
            logger.info(
                "Objects of the adapted network count from a confidence of %.3f on, not from %.3f: fewer would be left "
                "than before",
                *(carried, self.confidence),
            )
        return carried


def confidence_of_number(highest: np.ndarray, number: int, most: float) -> float:
    """The highest confidence that leaves ``number`` objects, between :data:`LEAST` and ``most``.

    Args:
        highest: (N,) probability of each object, the network's own.
    """
    if not number:
        return most
    lowest = np.sort(highest)[-number] if number <= len(highest) else 0.0
    return min(max(math.floor(1000 * lowest) / 1000, LEAST), most)  # rounded down, so that the lowest of them stays


def highest_of_objects(windows: Iterable[ClickWindows], model: PromptDAS) -> np.ndarray:
    """The highest probability of each object in the windows, found without clicks -> (K,), the network's own."""
    found = [np.zeros(0)]
    for probability in chain.from_iterable(some.predict(model) for some in windows):
        components = connected_components(probability > FOREGROUND_THRESHOLD)
        found.append(ndimage.maximum(probability, components, np.arange(1, components.max(initial=0) + 1)))
    return own_probability(model, np.concatenate(found))


def own_probability(model: PromptDAS, probability: np.ndarray) -> np.ndarray:
    """Undo in probabilities that outlines are moved to 0.5."""
    return confidence_at_outline(probability, probability_of_logit(-model.outline_logit))
