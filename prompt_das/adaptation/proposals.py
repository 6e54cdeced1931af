"""Where a user should click next: the places of a volume that the network is least sure of (active learning).

Found in the prediction without prompts, one slice at a time, so that memory does not grow with the volume:

* components of the mask whose mean probability is little above one half;
* peaks of the density of centers outside the mask: the two heads contradict each other;
* places with a probability of 0.3 to 0.5 that belong to no component of the mask.

The score of a place is 1 where the network cannot decide, and 0 where it is sure: 1 - |2 p - 1|, p being the mean
probability there; of a peak it is its density, where that is more.

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

from prompt_das.modeling.meta_arch import NO_PROMPTS, PromptDAS
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE, connected_components
from prompt_das.ops.points import instance_centers
from prompt_das.ops.slice_peaks import find_slice_peaks
from prompt_das.utils.atomic_write import atomic_write

import numpy as np
import torch

MAYBE = 0.3  # probability from which on a place may be an object
PEAK = 0.2  # density that a center must have outside of the mask; training takes centers from about 0.4 on
NEAR_SIGMAS = 3.0  # of the center-point head: closer places are of one object
NEAR_SLICES = 3  # of one object, too: it goes on in its neighbors


class Proposal(NamedTuple):
    """A place to click: slice index ``z``, (x, y) in pixels, score 0 to 1, and what is there in a few words."""

    z: int
    x: float
    y: float
    score: float
    reason: str


def propose_in_slice(
    model: PromptDAS,
    image: np.ndarray,
    size: tuple[int, int],
    z: int,
    *,
    most: int,
    radius: float,
    taken: Mapping[int, np.ndarray],
) -> list[Proposal]:
    """The most uncertain places of a slice, at most ``most``, by falling score.

    Args:
        model: in eval mode.
        image: (H', W') gray values 0-255, at the network's scale.
        size: (H, W) of the slice as stored.
        radius, taken: see :func:`choose`.
    """
    maps = model.predict_slice(torch.from_numpy(image)[None], NO_PROMPTS, size, with_density=True)
    (probability,), (density,) = maps["sem_seg"].values(), maps["density"].values()
    found = uncertain_places(probability.float().cpu().numpy(), density.float().cpu(), z)
    return choose(found, most, radius=radius, taken=taken)


def uncertain_places(probability: np.ndarray, density: torch.Tensor, z: int) -> list[Proposal]:
    """All candidates of a slice, in no order; ``probability``, ``density``: (H, W)."""
    mask = probability > FOREGROUND_THRESHOLD
    return [
        *_components(connected_components(mask), probability, z, "object"),
        *_components(_maybe(probability, mask), probability, z, "perhaps an object"),
        *_peaks(probability, mask, density, z),
    ]


def _components(labels: np.ndarray, probability: np.ndarray, z: int, what: str) -> list[Proposal]:
    size = np.bincount(labels.ravel())
    mean = np.bincount(labels.ravel(), weights=probability.ravel()) / np.maximum(size, 1)
    ids, points = instance_centers(labels)
    return [
        Proposal(z, x, y, uncertainty(mean[i]), f"{what}, mean probability {mean[i]:.2f}")
        for i, (x, y) in zip(ids.tolist(), points.tolist(), strict=True)
        if size[i] > MIN_INSTANCE_SIZE
    ]


def uncertainty(probability: float) -> float:
    """The score of a mean probability: 1 at one half, 0 at 0 and at 1."""
    return 1 - abs(2 * float(probability) - 1)


def _maybe(probability: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The components of what may be an object that hold no pixel of the mask: its rim is as uncertain, and no news."""
    labels = connected_components(probability > MAYBE)
    certain = np.unique(labels[mask])
    return np.where(np.isin(labels, certain), 0, labels)


def _peaks(probability: np.ndarray, mask: np.ndarray, density: torch.Tensor, z: int) -> list[Proposal]:
    points, scores = find_slice_peaks(density.cpu().numpy(), threshold=PEAK, kernel=5, top_k=1024)
    found = []
    for (x, y), height in zip(points.tolist(), scores.tolist(), strict=True):
        here = float(probability[int(y), int(x)])
        if not mask[int(y), int(x)]:
            score = max(uncertainty(here), min(height, 1.0))
            found.append(Proposal(z, x, y, score, f"center of {height:.2f} outside of the mask"))
    return found


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
