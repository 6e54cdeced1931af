"""Labels as runs: pixels of one label that follow each other in a row. There are far fewer than pixels.

Shapes: D, H, W slices, height and width of labels; m labeled voxels, r runs. A voxel's index is its place in raster
order, z H W + y W + x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Runs(NamedTuple):
    """All runs of a label map, in raster order.

    Attributes:
        start: (r,) indices of their first voxels.
        length: (r,) voxels.
        label: (r,).
    """

    start: np.ndarray
    length: np.ndarray
    label: np.ndarray

    def moved(self, voxels: int) -> Runs:
        """The runs in a larger volume, so many voxels further."""
        return self._replace(start=self.start + voxels)

    def between(self, start: int, stop: int) -> Runs:
        """The runs that begin at the indices ``start`` ... ``stop - 1``, which count from 0 then."""
        inside = slice(*np.searchsorted(self.start, [start, stop]))
        return Runs(self.start[inside] - start, self.length[inside], self.label[inside])

    def voxels(self) -> np.ndarray:
        """(m,) indices of all voxels."""
        before = np.cumsum(self.length) - self.length
        return np.repeat(self.start - before, self.length) + np.arange(self.length.sum())


def find_runs(labels: np.ndarray) -> Runs:
    """The runs of labels (D, H, W), 0 is background."""
    flat, width = labels.ravel(), labels.shape[-1]
    voxels = np.flatnonzero(flat != 0)
    found = flat[voxels]
    begins = voxels % width == 0
    begins[:1] = True
    begins[1:] |= (np.diff(voxels) > 1) | (found[1:] != found[:-1])
    begin = np.flatnonzero(begins)
    return Runs(voxels[begin], np.diff(begin, append=len(voxels)), found[begin].astype(np.int64))


def count_contacts(first: Runs, second: Runs, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pairs of pixels of two maps (H, W = ``width``) that are at most one pixel apart in each direction.

    Returns:
        (n,) labels of the first map, (n,) of the second, each pair once, in their order; and (n,) how many pairs of
        pixels have them.
    """
    # One empty column more, so that what is beside the end of a row is not the begin of the next.
    (start, stop), (other_start, other_stop) = (_interval(runs, width) for runs in (first, second))
    keys, pixels = [], []
    labels = int(second.label.max(initial=0)) + 1
    for rows in (-(width + 1), 0, width + 1):
        low, high = start + rows, stop + rows
        begin = np.searchsorted(other_stop, low - 1, side="right")
        count = np.maximum(np.searchsorted(other_start, high + 1, side="left") - begin, 0)
        one = np.repeat(np.arange(len(start)), count)
        other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count - begin, count)
        keys.append(first.label[one] * labels + second.label[other])
        overlaps = [
            np.minimum(high[one] + dx, other_stop[other]) - np.maximum(low[one] + dx, other_start[other])
            for dx in (-1, 0, 1)
        ]
        pixels.append(np.maximum(overlaps, 0).sum(axis=0))
    pairs, pair = np.unique(np.concatenate(keys), return_inverse=True)
    contact = np.bincount(pair, np.concatenate(pixels), len(pairs)).astype(np.int64)
    return *np.divmod(pairs, labels), contact


def _interval(runs: Runs, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Half-open intervals of the runs of a map, where its rows have one column more."""
    start = runs.start + runs.start // width
    return start, start + runs.length


def join_runs(parts: Sequence[Runs]) -> Runs:
    """The runs of label maps one after the other."""
    return Runs(*(np.concatenate([np.zeros(0, np.int64), *values]) for values in zip(*parts, strict=True)))
