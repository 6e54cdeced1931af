"""Where outlines lie in a volume, from the typical diameter of its objects.

Points say where objects are and nothing of their borders, and people draw these differently: around the outer membrane
in one volume, inside of it in another. Two such outlines of a mitochondrion of 280 nm differ by a third of its area.
One number of a volume settles that: the diameter that its objects typically have.

Shapes: N windows of S x S pixels of the network.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_das.adaptation.held_out_clicks import ClickWindows
from prompt_das.data.crop_reader import CropReader
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.postprocessing import confidence_at_outline
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import POSITIVE
from prompt_das.volumes.point_files import SliceClicks

import numpy as np

logger = logging.getLogger(__name__)

MOST_WINDOWS = 64
ENOUGH_OBJECTS = 5  # to speak of a typical one
# Highest probability of an object that counts, the network's own. Where it was 0.9, false objects made the answer
# depend on whether windows lie around clicks or anywhere; beyond 0.97 what is left is larger than typical
# (docs/RESULTS.md).
SURE = 0.95
LOGITS = np.arange(-1.5, 3.01, 0.25)  # to choose from: probabilities of 0.18 to 0.95
LEAST = 0.02  # probability of an outline, or of what is beyond it


def fit_outline(
    model: PromptDAS,
    slices: Sequence[dict[str, Any]],
    clicks: Mapping[int, np.ndarray],
    crop: CropReader,
    diameter: float,
) -> float:
    """The MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY at which the objects of a volume have a given diameter in the median.

    Args:
        model: in eval mode; it is not prompted.
        slices: of the volume, dicts as in :mod:`prompt_das.data.slices`.
        clicks: (n, 3) by slice, to look where objects are first.
        diameter: of a circle of the same area as a typical object, in pixels of the image.

    Returns:
        the one that the model has, with a warning, where it is sure of too few objects to speak of a typical one.
    """
    windows = ClickWindows(slices, choose_places(slices, clicks), crop)
    outline = probability_of_logit(model.outline_logit)
    sure = confidence_at_outline(SURE, outline)
    shift, found = logit_of_diameter(list(windows.predict(model)), diameter * crop.scale, sure)
    if shift is None:
        logger.warning(
            "The diameter of %.4g pixels says the scale alone, and not where outlines lie: the network is sure of %d "
            "whole objects only in %d windows of the volume, and %d are needed",
            *(diameter, found, len(windows), ENOUGH_OBJECTS),
        )
        return outline
    probability = min(max(probability_of_logit(model.outline_logit + shift), LEAST), 1 - LEAST)
    logger.info(
        "Outlines lie at a probability of %.2f of the network: there %d objects have the diameter of %.4g pixels",
        *(probability, found, diameter),
    )
    return probability


def probability_of_logit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def logit_of_diameter(maps: Sequence[np.ndarray], diameter: float, sure: float = SURE) -> tuple[float | None, int]:
    """The logit above which components have a median diameter nearest to a given one, and the number of components.

    Only components that the network is sure of count, and that no border cuts.

    Args:
        maps: (S, S) foreground probabilities.
        diameter: in pixels of the maps.
        sure: highest probability of a component that counts, in those of the maps.

    Returns:
        one of :data:`LOGITS`, or None where there never are :data:`ENOUGH_OBJECTS`.
    """
    distances, numbers = [], []
    for logit in LOGITS:
        diameters = np.concatenate([sure_diameters(one, probability_of_logit(logit), sure) for one in maps])
        numbers.append(len(diameters))
        enough = len(diameters) >= ENOUGH_OBJECTS
        distances.append(abs(math.log(np.median(diameters) / diameter)) if enough else math.inf)
    nearest = int(np.argmin(distances))
    if distances[nearest] == math.inf:
        return None, max(numbers)
    return float(LOGITS[nearest]), numbers[nearest]


def sure_diameters(probability: np.ndarray, threshold: float, sure: float) -> np.ndarray:
    """Diameters of circles of the same area as each whole component (S, S) that the network is sure of -> (K,)."""
    components = connected_components(probability > threshold)
    number = int(components.max(initial=0)) + 1
    highest = np.zeros(number, probability.dtype)
    np.maximum.at(highest, components.ravel(), probability.ravel())
    whole = highest >= sure
    whole[0] = False
    for edge in (components[0], components[-1], components[:, 0], components[:, -1]):
        whole[edge] = False
    return 2 * np.sqrt(np.bincount(components.ravel(), minlength=number)[whole] / math.pi)


def choose_places(slices: Sequence[dict[str, Any]], clicks: Mapping[int, np.ndarray]) -> SliceClicks:
    """:data:`MOST_WINDOWS` places of a volume: its positive clicks, and others at random where these are fewer.

    Args:
        clicks: (n, 3) by slice.

    Returns:
        (n, 3) by slice, as clicks.
    """
    rng = np.random.default_rng(0)
    positive = [(z, *click) for z in sorted(clicks) for click in clicks[z] if click[2] == POSITIVE]
    rows = [positive[i] for i in rng.permutation(len(positive))[:MOST_WINDOWS]]
    for i in rng.integers(len(slices), size=MOST_WINDOWS - len(rows)):
        x, y = rng.random(2) * (slices[i]["width"], slices[i]["height"])
        rows.append((slices[i]["slice"], x, y, POSITIVE))
    return {
        int(z): np.array([row[1:] for row in rows if row[0] == z], np.float32) for z in sorted({r[0] for r in rows})
    }
