"""Instances of a volume whose slices are split at centers: each slice on its own, then linked with its neighbors.

A slice depends on its own maps and clicks, and a link on two slices, so nothing depends on how the volume is cut into
blocks, or where a run was stopped.

Shapes: H, W height and width of the volume; n parts of a slice, m links.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prompt_das.ops.split_instances import split_at_centers
from prompt_das.volumes.ome_zarr import finest

import numpy as np
import scipy.sparse

_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


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


class SliceParts(NamedTuple):
    """The parts of a slice: (H, W) labels 0 ... n, and (n + 1,) the connected component that each is a part of."""

    labels: np.ndarray
    component: np.ndarray


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
        probability.astype(np.float32) / 255,
        density.astype(np.float32) / 255,
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
    contact_of = _contacts(lower, upper)
    first, second, contact = contact_of.row, contact_of.col, contact_of.data
    count = np.int64(len(upper.component))
    linked = np.zeros(len(first), bool)
    waiting = np.arange(len(first))
    while len(waiting):  # a few rounds: those that prefer each other, then those that are left, without these
        sides = [
            np.int64(first[waiting]) * (count + 1) + upper.component[second[waiting]],
            np.int64(second[waiting]) * (len(lower.component) + 1) + lower.component[first[waiting]],
        ]
        best = _most(sides[0], contact[waiting]) & _most(sides[1], contact[waiting])
        linked[waiting[best]] = True
        taken = np.any([np.isin(side, side[best]) for side in sides], axis=0)
        waiting = waiting[~taken]
    return first[linked], second[linked]


def _contacts(lower: SliceParts, upper: SliceParts) -> Any:
    """Pairs of voxels of neighboring slices that touch: a sparse matrix (parts below, parts above) of their number.

    Entries are in the order of the labels.
    """
    pixels = np.flatnonzero(lower.labels != 0)
    below = lower.labels.ravel()[pixels]
    padded = np.pad(upper.labels, 1)
    width = padded.shape[1]
    rows, columns = np.divmod(pixels, lower.labels.shape[1])
    around = padded.ravel()
    shape = (len(lower.component), len(upper.component))
    contacts = scipy.sparse.csr_array(shape, dtype=np.int64)
    for dy, dx in _AROUND:
        above = around[(rows + 1 + dy) * width + columns + 1 + dx]
        both = above > 0
        ones = np.ones(int(both.sum()), np.int64)
        contacts = contacts + scipy.sparse.coo_array((ones, (below[both], above[both])), shape=shape).tocsr()
    contacts.sort_indices()
    return contacts.tocoo()


def _most(group: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """(pairs,) bool: the pair of most contact of each group, the first of equal ones."""
    order = np.lexsort((-contact, group))  # stable
    best = np.ones(len(order), bool)
    best[1:] = group[order][1:] != group[order][:-1]
    result = np.zeros(len(order), bool)
    result[order] = best
    return result
