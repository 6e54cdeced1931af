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


def join_runs(parts: Sequence[Runs]) -> Runs:
    """The runs of label maps one after the other."""
    return Runs(*(np.concatenate([np.zeros(0, np.int64), *values]) for values in zip(*parts, strict=True)))
