"""Where a user should click next: the objects of a volume of which the network is least sure (active learning).

Found in the prediction without prompts, one slice at a time, so that memory does not grow with the volume. A component
of the mask counts as an object if its highest probability reaches ``TEST.MIN_CONFIDENCE``; those closest to it, on
either side, are proposed: half of them are none. What else might be clicked is seldom an object and seldom an error
(docs/RESULTS.md): places of lower probability, and peaks of the density outside of the mask.

The score of an object is 1 where its highest probability is that confidence, and 1 / (1 + d) where the logits of the
two differ by d.

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

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE, connected_components
from prompt_das.ops.points import instance_centers
from prompt_das.utils.atomic_write import atomic_write

import numpy as np

# Where TEST.MIN_CONFIDENCE is 0, as in the paper: components of which the network is nowhere as sure are mostly false.
CONFIDENCE = 0.9
TINY = 1e-6  # probabilities are compared from here to 1 - TINY
NEAR_SIGMAS = 3.0  # of the center-point head: closer places are of one object
NEAR_SLICES = 3  # of one object, too: it goes on in its neighbors


class Proposal(NamedTuple):
    """A place to click: slice index ``z``, (x, y) in pixels, score 0 to 1, and what is there in a few words."""

    z: int
    x: float
    y: float
    score: float
    reason: str


def uncertain_objects(probability: np.ndarray, z: int, *, confidence: float) -> list[Proposal]:
    """The components of the mask of a slice, of more than ``MIN_INSTANCE_SIZE`` pixels, in no order.

    Args:
        probability: (H, W) of the foreground, components of low confidence included.
        confidence: the highest probability from which on a component counts as an object.
    """
    labels = connected_components(probability > FOREGROUND_THRESHOLD)
    ids, points = instance_centers(labels)
    sizes = np.bincount(labels.ravel())
    highest = np.zeros(len(sizes), probability.dtype)
    np.maximum.at(highest, labels.ravel(), probability.ravel())
    return [
        Proposal(z, x, y, score_of(float(highest[i]), confidence), f"object, highest probability {highest[i]:.2f}")
        for i, (x, y) in zip(ids.tolist(), points.tolist(), strict=True)
        if sizes[i] > MIN_INSTANCE_SIZE
    ]


def score_of(highest: float, confidence: float) -> float:
    """The score of a highest probability: 1 at ``confidence``, falling with the difference of their logits."""
    return 1 / (1 + abs(_logit(highest) - _logit(confidence)))


def _logit(probability: float) -> float:
    inside = min(max(probability, TINY), 1 - TINY)
    return math.log(inside / (1 - inside))


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
        writer.writerow([place.z, f"{place.y - 0.5:g}", f"{place.x - 0.5:g}", f"{place.score:.3f}", place.reason])
    with atomic_write(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
