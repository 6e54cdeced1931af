"""Instances that touch, split by a seeded watershed: seeds are centers that the network predicts, and clicks.

The rule has three steps, for each connected component of the mask:

1. **Candidates** are the peaks of the center density in it, and the positive clicks on it.
2. **Seeds** are the candidates that something separates. Between two of them the *density falls* to the highest pass
   between them, and the *mask narrows*: both are measured on the best path from one to the other. Their sum has to
   reach ``SEPARATION``; otherwise the weaker candidate joins the one from which the least separates it. A click that
   joins a peak takes its place, a peak that joins a click is dropped, and two clicks never join.
3. **Parts**: each pixel belongs to the seed with the cheapest path to it, where a step costs the more the nearer it is
   to the border of the mask and the less sure the network is there. That is the watershed by topographic distance
   (Meyer 1994), the image foresting transform of an additive cost: necks become borders, wherever in its object a
   seed lies. (SciPy's ``watershed_ift`` and OpenCV's ``watershed`` compare neighboring pixels instead of heights, and a
   flood by heights gives the object of a click near its border to the neighbor.)

Shapes: H, W height and width of a slice or of a box in it; N candidates; n components or parts. A position is (row,
column), a point (x, y) in pixels, the center of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from typing import NamedTuple

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, connected_components, in_raster_order
from prompt_das.ops.points import PEAK_THRESHOLD, POSITIVE, as_clicks
from prompt_das.ops.slice_peaks import find_slice_peaks
from prompt_das.ops.stored_maps import as_unit

import cv2
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph

# Least sum that splits: fall of the density, in which a sure peak is 1, plus fraction by which the mask narrows. Two
# sure peaks reach it by their density alone when they are 2.7 sigma apart; peaks below 0.6 never do.
SEPARATION = 0.6
SMOOTHING = 1.5  # pixels
LEVELS = 64  # in which passes are measured
MAX_PEAKS = 4096  # of a slice
_STEPS = ((0, 1), (1, -1), (1, 0), (1, 1))  # to half of a pixel's 8 neighbors
_AROUND = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])


class Candidates(NamedTuple):
    """Possible seeds of a slice or of a component."""

    position: np.ndarray  # (N, 2) int64
    clicked: np.ndarray  # (N,) bool


def split_at_centers(
    probability: np.ndarray,
    density: np.ndarray,
    clicks: np.ndarray | None = None,
    *,
    mask: np.ndarray | None = None,
    threshold: float = FOREGROUND_THRESHOLD,
    peak_threshold: float = PEAK_THRESHOLD,
    kernel: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Label the instances of a slice: its components, those with more than one seed split.

    Args:
        probability: (H, W) of the foreground, 0 to 1, or uint8 of which 255 is 1; NaN is background.
        density: (H, W) of center points, about 1 at a sure one, or uint8; NaN is 0.
        clicks: (N, 2 or 3), see :func:`prompt_das.ops.points.as_clicks`; only positive ones on the mask count.
        mask: (H, W) bool; by default where the probability is above ``threshold``.
        threshold: of the foreground, where the probability begins to count as sure.
        peak_threshold, kernel: see :func:`prompt_das.ops.points.find_peaks`.

    Returns:
        int32 (H, W) labels, 1 ... n in the raster order of their first pixels, 0 elsewhere; and (n + 1,) the component
        that each label is a part of, 0 for the background.

    Raises:
        ValueError: maps of different shapes.
    """
    if probability.shape != density.shape or probability.ndim != 2:
        raise ValueError(f"probability is {probability.shape}, density {density.shape}; both are one slice (H, W)")
    components = connected_components(as_unit(probability) > threshold if mask is None else mask)
    candidates = find_candidates(density, components > 0, clicks, peak_threshold, kernel)
    owner = components[tuple(candidates.position.T)]
    labels, count = components.copy(), int(components.max(initial=0))
    parents = [np.arange(count + 1)]
    to_split = np.flatnonzero(np.bincount(owner, minlength=1) > 1)
    boxes = scipy.ndimage.find_objects(components) if len(to_split) else []
    for component in to_split:
        box = _widen(boxes[component - 1], components.shape)
        inside = components[box] == component
        corner = np.array([side.start for side in box])
        in_component = owner == component
        local = Candidates(candidates.position[in_component] - corner, candidates.clicked[in_component])
        parts = split_component(inside, as_unit(probability[box]), as_unit(density[box]), local, threshold)
        added = int(parts.max()) - 1  # the first part keeps the component's label
        further = parts > 1
        labels[box][further] = count + parts[further] - 1
        parents.append(np.full(added, component))
        count += added
    if len(parents) == 1:  # nothing was split
        return labels, parents[0]
    order = in_raster_order(labels, count)
    parent = np.zeros(count + 1, np.int64)
    parent[order] = np.concatenate(parents)
    pixels = np.flatnonzero(labels != 0)
    labels.ravel()[pixels] = order[labels.ravel()[pixels]]
    return labels, parent


def find_candidates(
    density: np.ndarray, mask: np.ndarray, clicks: np.ndarray | None, peak_threshold: float, kernel: int
) -> Candidates:
    """List the peaks of the density (H, W) and the positive clicks that lie on the mask, each position once."""
    rows, columns = np.zeros((2, 0), np.int64)
    if clicks is not None and len(clicks):
        checked = as_clicks(clicks)
        columns, rows = np.floor(checked[checked[:, 2] == POSITIVE, :2]).astype(np.int64).T
    clicked = np.stack([rows, columns], axis=-1)
    clicked = np.unique(clicked[mask[rows, columns]], axis=0)
    points, _ = find_slice_peaks(density, peak_threshold, kernel, MAX_PEAKS)
    columns, rows = np.floor(points).astype(np.int64).T
    on_mask = mask[rows, columns]
    peaks = np.stack([rows[on_mask], columns[on_mask]], axis=-1)
    peaks = peaks[~(peaks[:, None] == clicked).all(-1).any(-1)]
    return Candidates(np.concatenate([clicked, peaks]), np.arange(len(clicked) + len(peaks)) < len(clicked))


def split_component(
    inside: np.ndarray, probability: np.ndarray, density: np.ndarray, candidates: Candidates, threshold: float
) -> np.ndarray:
    """Split one component between its seeds.

    Args:
        inside: (H, W) bool, the component in a box; what lies outside of the box may belong to it, too: the component
            is not narrow for being cut by the border of the slice.
        probability, density: (H, W).
        candidates: at least one, all inside.
        threshold: of the foreground.

    Returns:
        int32 (H, W): 1 ... n, 0 outside.
    """
    relief = measure_relief(inside, probability, threshold)
    density = np.where(inside, np.nan_to_num(density, nan=0.0), 0.0).clip(0, 1)
    seeds = choose_seeds(relief, density, candidates)
    return flood(inside, relief, seeds) if len(seeds) > 1 else inside.astype(np.int32)


def measure_relief(inside: np.ndarray, probability: np.ndarray, threshold: float) -> np.ndarray:
    """Multiply the distance to the border of a component by how sure it is there, 0 to 1: float32 (H, W), 0 outside.

    A neck is low, and so is a line along which the probability dips.
    """
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = np.minimum(distance, max(inside.shape))  # no border in the box: OpenCV has a very large number for that
    sure = ((probability - threshold) / (1 - threshold)).clip(1 / 255, 1)
    relief = np.where(inside, distance * sure, 0).astype(np.float32)
    # Distances of pixels have small steps and ridges; smoothed, the steepest ascents end in the middle.
    return np.where(inside, np.maximum(cv2.GaussianBlur(relief, (0, 0), SMOOTHING), 1e-3), 0)


def choose_seeds(relief: np.ndarray, density: np.ndarray, candidates: Candidates) -> np.ndarray:
    """Choose the candidates that something separates: (n, 2) positions. See step 2 in the head of this file."""
    falls = _separation(relief, density, candidates.position)
    strength = density[tuple(candidates.position.T)]
    joined = join_weakest(falls, strength, candidates.clicked)
    clicks_in = np.bincount(joined[candidates.clicked], minlength=len(joined))
    own = joined == np.arange(len(joined))
    return candidates.position[candidates.clicked | (own & (clicks_in == 0))]


def join_weakest(separation: np.ndarray, strength: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Join each candidate, the weakest first, with the one that is separated least from it, if that is too little.

    Args:
        separation: (N, N), symmetric.
        strength: (N,).
        clicked: (N,) bool; two of them are never joined directly.

    Returns:
        (N,) index of the candidate that each has joined in the end; of one that stands alone, its own.
    """
    joined = np.arange(len(strength))
    standing = np.ones(len(strength), bool)
    for weakest in np.argsort(strength, kind="stable"):
        others = standing & ~(clicked & clicked[weakest])
        others[weakest] = False
        if not others.any():
            continue
        between = np.where(others, separation[weakest], np.inf)
        nearest = int(np.argmin(between))
        if between[nearest] < SEPARATION:
            joined[joined == weakest] = nearest
            standing[weakest] = False
    return joined


def _separation(relief: np.ndarray, density: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(N, N): how far the density falls between candidates, plus the fraction by which the mask narrows.

    Both are taken from the peaks that the candidates lie on the slopes of: a click is seldom at the very center.
    """
    heights, passes = _passes(density, steepest_ascent(density, position)[-1], 1.0)
    lower = np.minimum(heights[:, None], heights)
    fall = (lower - passes) / LEVELS
    heights, passes = _passes(relief, steepest_ascent(relief, position)[-1], float(relief.max()))
    lower = np.maximum(np.minimum(heights[:, None], heights), 1)
    return fall + (1 - np.minimum(passes, lower) / lower)


def steepest_ascent(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Follow the steepest ascent from each position (N, 2), all at once: (T, N, 2), the last ones are maxima."""
    padded = np.pad(values, 1, constant_values=-1)
    every = np.arange(len(position))
    path = [position + 1]
    while True:
        around = path[-1][:, None] + _AROUND  # (N, 9, 2)
        heights = padded[around[..., 0], around[..., 1]]
        best = np.argmax(heights, axis=1)
        rises = heights[every, best] > padded[tuple(path[-1].T)]
        if not rises.any():
            return np.stack(path) - 1
        path.append(np.where(rises[:, None], around[every, best], path[-1]))


def _passes(values: np.ndarray, position: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    """In ``LEVELS`` from 0 to ``top``: heights (N,) of positions, and (N, N) of the highest pass between any two.

    That is the highest level at which both lie in one component of what is as high or higher. It is found by halving
    what is left of the widest range.
    """
    level = np.floor(values * (LEVELS / top)).clip(0, LEVELS).astype(np.uint8)
    heights = level[tuple(position.T)].astype(np.int64)
    highest = np.minimum(heights[:, None], heights)
    passes = np.diag(heights)  # so high at least
    while (ranges := highest - passes).any():
        widest = np.unravel_index(np.argmax(ranges), ranges.shape)
        height = int(passes[widest] + highest[widest] + 1) // 2
        _, labels = cv2.connectedComponents((level >= height).astype(np.uint8), connectivity=8)
        at = labels[tuple(position.T)]
        together = (at[:, None] == at) & (at > 0)
        passes[together] = np.maximum(passes[together], height)
        highest[~together] = np.minimum(highest[~together], height - 1)
    return heights, passes


def flood(inside: np.ndarray, relief: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Give each pixel of a component the seed with the cheapest path to it.

    A step costs its length times the mean of 1 / relief² at its ends; the ascent from a seed to the middle of its
    object is free. Each part is connected, with its seed in it.

    Args:
        inside: (H, W) bool, one 8-connected component.
        relief: (H, W), positive inside.
        seeds: (n, 2) positions inside.

    Returns:
        int32 (H, W): i + 1 for the seed i, 0 outside.
    """
    index = np.full(inside.shape, -1, np.int32)
    count = int(inside.sum())
    index[inside] = np.arange(count)
    cost = 1 / np.square(relief[inside].astype(np.float64))
    height, width = inside.shape
    ends, costs = [], []
    for dy, dx in _STEPS:
        here = index[: height - dy, max(0, -dx) : width - max(0, dx)]
        there = index[dy:, max(0, dx) : width + min(0, dx)]
        both = (here >= 0) & (there >= 0)
        ends.append(np.stack([here[both], there[both]]))
        costs.append(np.hypot(dy, dx) * (cost[ends[-1][0]] + cost[ends[-1][1]]) / 2)
    edges = (np.concatenate(costs), tuple(np.concatenate(ends, axis=1)))
    graph = scipy.sparse.csr_matrix(edges, shape=(count, count))
    starts, seed_of = _ascent_pixels(index, relief, seeds)
    *_, source = scipy.sparse.csgraph.dijkstra(
        graph, directed=False, indices=starts, min_only=True, return_predecessors=True
    )
    parts = np.zeros(inside.shape, np.int32)
    parts[inside] = seed_of[source]
    return parts


def _ascent_pixels(index: np.ndarray, relief: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that paths start from: each seed, and those of its steepest ascent that no other seed's shares.

    So a seed near the border of its object holds the middle of it. Returns pixels (m,) by their ``index``, and the
    label of the seed for each index that is one of them.
    """
    ascents = index[tuple(np.moveaxis(steepest_ascent(relief, seeds), -1, 0))]  # (T, n)
    labels = np.broadcast_to(np.arange(1, len(seeds) + 1), ascents.shape)
    first, last = (np.full(index.max() + 1, start, np.int32) for start in (len(seeds) + 1, 0))
    np.minimum.at(first, ascents, labels)
    np.maximum.at(last, ascents, labels)
    seed_of = np.where(first == last, last, 0)
    seed_of[ascents[0]] = labels[0]
    return np.flatnonzero(seed_of), seed_of


def _widen(box: tuple[slice, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    """A box with one pixel more at each side, as far as the slice reaches."""
    return tuple(
        slice(max(side.start - 1, 0), min(side.stop + 1, length)) for side, length in zip(box, size, strict=True)
    )
