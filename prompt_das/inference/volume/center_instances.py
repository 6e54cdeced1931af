"""Instances of a volume whose slices are split at centers: each slice on its own, then linked with its neighbors.

A slice depends on its own maps and clicks, and a link on two slices, so nothing depends on how the volume is cut into
blocks, or where a run was stopped.

Shapes: H, W height and width of the volume; n parts of a slice, m links.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prompt_das.ops.runs import Runs, count_contacts, find_runs
from prompt_das.ops.split_instances import split_at_centers
from prompt_das.volumes.ome_zarr import finest

import numpy as np


@dataclass(frozen=True)
class CenterRule:
    """How slices are split, see :func:`prompt_das.ops.split_instances.split_at_centers`.

    Attributes:
        threshold: of the foreground.
        peak_threshold, kernel: of peaks of the density.
        clicks: (N, 3) of some slices, by their index.
    """

    threshold: float
    peak_threshold: float
    kernel: int
    clicks: Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class SliceParts:
    """The parts of a slice: (H, W) labels 0 ... n, and (n + 1,) the connected component that each is a part of."""

    labels: np.ndarray
    component: np.ndarray

    @cached_property
    def runs(self) -> Runs:
        return find_runs(self.labels[None])


def split_slice(
    group: Any, z: int, rule: CenterRule, lowest: int, *, linked: bool = True
) -> tuple[SliceParts, np.ndarray]:
    """Split a slice of a stored volume: its parts, and its probability (H, W) as it is stored, 255 is 1.

    ``lowest``: stored probability of the foreground. ``linked``: neighboring slices count as well, see
    :func:`read_density`.
    """
    probability = np.asarray(finest(group, "probability")[z])
    stored = finest(group, "density")
    density = read_density(stored, z) if linked else np.asarray(stored[z])
    labels, component = split_at_centers(
        probability,
        density,
        rule.clicks.get(z),
        mask=probability >= lowest,
        threshold=rule.threshold,
        peak_threshold=rule.peak_threshold,
        kernel=rule.kernel,
    )
    return SliceParts(labels, component), probability


def read_density(density: Any, z: int) -> np.ndarray:
    """The median of a slice's density (H, W) and those of its two neighbors; of the first and the last slice its own.

    A center that one slice misses, or has alone, is outvoted by the slices beside it: instances go through several
    slices, and their centers move little from one to the next.
    """
    if not 0 < z < density.shape[0] - 1:
        return np.asarray(density[z])
    below, here, above = np.asarray(density[z - 1 : z + 2])
    return np.maximum(np.minimum(below, here), np.minimum(np.maximum(below, here), above))


def link_slices(lower: SliceParts, upper: SliceParts) -> tuple[np.ndarray, np.ndarray]:
    """Which parts of two neighboring slices are one instance: (m,) labels of the lower, and of the upper slice.

    Those that touch at a face, an edge or a corner of a voxel, as components do. But of the parts of one component a
    part of the other slice gets one only, pairs of most contact first: what was split is not joined by a neighbor that
    lies on both. So slices without any split are linked as components are.
    """
    first, second, contact = count_contacts(lower.runs, upper.runs, width=lower.labels.shape[1])
    linked = np.zeros(len(first), bool)
    waiting = np.arange(len(first))
    while len(waiting):  # a few rounds: those that prefer each other, then those that are left, without these
        sides = [
            first[waiting] * (len(upper.component) + 1) + upper.component[second[waiting]],
            second[waiting] * (len(lower.component) + 1) + lower.component[first[waiting]],
        ]
        best = _most(sides[0], contact[waiting]) & _most(sides[1], contact[waiting])
        linked[waiting[best]] = True
        taken = np.any([np.isin(side, side[best]) for side in sides], axis=0)
        waiting = waiting[~taken]
    return first[linked], second[linked]


def _most(group: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """(pairs,) bool: the pair of most contact of each group, the first of equal ones."""
    order = np.lexsort((-contact, group))  # stable
    best = np.ones(len(order), bool)
    best[1:] = group[order][1:] != group[order][:-1]
    result = np.zeros(len(order), bool)
    result[order] = best
    return result
