"""Where a user should click next: where a network expects its largest errors (active learning).

Found in the prediction without prompts, one slice at a time, so that memory does not grow with the volume. A pixel of
probability p is wrong with a probability of min(p, 1 - p), if the network is right about itself. The score of a place
is the number of wrong pixels to be expected in the region in doubt around it, and the place is the region's innermost
pixel: the expectation of what a simulated user clicks who knows the truth (:mod:`prompt_das.evaluation.clicks`). The
rims of objects are as much in doubt, but thin, and do not count.

Shapes: H, W pixels of a slice; N points (x, y) in pixels of it.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prompt_das.ops.connected_components import MIN_INSTANCE_SIZE, connected_components
from prompt_das.utils.atomic_write import atomic_write

import cv2
import numpy as np
from scipy import ndimage

DOUBT = 0.2  # probability from which on, up to 1 - DOUBT, a pixel is in doubt
RIM_SIGMAS = 0.6  # of the center-point head: half of the width of a rim that is in doubt around a sure object
NEAR_SIGMAS = 3.0  # of the center-point head: closer places are of one object
NEAR_SLICES = 3  # of one object, too: it goes on in its neighbors


class Proposal(NamedTuple):
    """A place to click: slice index ``z``, (x, y), score (in pixels, see above), and what is there in a few words."""

    z: int
    x: float
    y: float
    score: float
    reason: str


def propose_in_slice(
    probability: np.ndarray, z: int, number: int, *, sigma: float, taken: Mapping[int, np.ndarray]
) -> list[Proposal]:
    """The ``number`` best places of a slice by falling score, without those that are worth less than a speck.

    Args:
        probability: (H, W) of the foreground, components of low confidence included; NaN where it is not known.
        sigma: of the center-point head, in pixels of the slice.
        taken: see :func:`choose`.
    """
    regions = doubtful_regions(probability, z, rim=RIM_SIGMAS * sigma)
    found = [region for region in regions if region.score > MIN_INSTANCE_SIZE]
    return choose(found, number, radius=NEAR_SIGMAS * sigma, taken=taken)


def doubtful_regions(probability: np.ndarray, z: int, *, rim: float) -> list[Proposal]:
    """The regions in doubt of a slice, in no order.

    Args:
        probability: as :func:`propose_in_slice` takes it.
        rim: distance from what is sure from which on a pixel counts, in pixels.
    """
    doubtful = (probability > DOUBT) & (probability < 1 - DOUBT)
    labels = connected_components(doubtful)
    depth = cv2.distanceTransform(np.pad(doubtful, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    wrong = np.where(depth > rim, np.minimum(probability, 1 - probability), 0)
    expected = np.bincount(labels.ravel(), weights=wrong.ravel())
    ids = np.flatnonzero(expected)
    places = ndimage.maximum_position(depth, labels, ids) if len(ids) else []
    return [
        Proposal(z, x + 0.5, y + 0.5, float(expected[i]), f"in doubt, probability {probability[y, x]:.2f}")
        for i, (y, x) in zip(ids, places, strict=True)
    ]


def choose(
    candidates: Iterable[Proposal],
    number: int,
    *,
    radius: float,
    taken: Mapping[int, np.ndarray],
    per_slice: int | None = None,
) -> list[Proposal]:
    """The ``number`` best candidates, none near another or near a point that is there already, by falling score.

    Args:
        radius: in pixels; places within it and ``NEAR_SLICES`` slices are near each other.
        taken: (n, 2 or 3) points of slices that there are already.
        per_slice: at most so many of a slice, as long as others have some.
    """
    known = [Place(z, float(p[0]), float(p[1])) for z, points in taken.items() for p in points]
    ranked = sorted(candidates, key=lambda c: (-c.score, c.z, c.y, c.x))
    chosen: list[Proposal] = []
    counts: Counter[int] = Counter()
    for limit in (per_slice, None) if per_slice is not None else (None,):
        for candidate in ranked:
            if len(chosen) == number:
                break
            if limit is not None and counts[candidate.z] >= limit:
                continue
            if any(_near(candidate, place, radius) for place in known) or any(
                _near(candidate, other, radius) for other in chosen
            ):
                continue
            chosen.append(candidate)
            counts[candidate.z] += 1
    return sorted(chosen, key=lambda c: (-c.score, c.z, c.y, c.x))


class Place(NamedTuple):
    """A point (x, y) of slice z."""

    z: int
    x: float
    y: float


def _near(a: Proposal, b: Proposal | Place, radius: float) -> bool:
    return abs(a.z - b.z) <= NEAR_SLICES and math.hypot(a.x - b.x, a.y - b.y) < radius


def write_proposals(path: str | Path, proposals: Sequence[Proposal]) -> None:
    """Write proposals as CSV in their order: napari and :mod:`prompt_das.volumes.point_files` read it.

    Columns: axis-0, axis-1, axis-2 (slice, row, column; the center of the first pixel is (0, 0)), score, reason.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["axis-0", "axis-1", "axis-2", "score", "reason"])
    for place in proposals:
        writer.writerow([place.z, f"{place.y - 0.5:g}", f"{place.x - 0.5:g}", f"{place.score:.1f}", place.reason])
    with atomic_write(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
