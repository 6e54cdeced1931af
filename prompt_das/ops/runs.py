"""Labels as runs: pixels of one label that follow each other in a row. There are far fewer than pixels.

Shapes: D, H, W slices, height and width of labels; m labeled voxels, r runs. A voxel's index is its place in raster
order, z H W + y W + x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Runs(NamedTuple):
    """All runs of a label map, in raster order.

    Attributes:
        voxels: (m,) indices of the labeled voxels.
        begin: (r,) where the runs begin in these.
        label: (r,) of their labels.
        length: (r,) voxels.
        z, y, x: (r,) of their first voxels.
    """

    voxels: np.ndarray
    begin: np.ndarray
    label: np.ndarray
    length: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray


def find_runs(labels: np.ndarray) -> Runs:
    """The runs of labels (D, H, W), 0 is background."""
    _, height, width = labels.shape
    flat = labels.ravel()
    voxels = np.flatnonzero(flat != 0)
    found = flat[voxels]
    begins = np.ones(len(voxels), bool)
    begins[1:] = (np.diff(voxels) > 1) | (found[1:] != found[:-1])
    begins |= voxels % width == 0
    begin = np.flatnonzero(begins)
    length = np.diff(begin, append=len(voxels))
    row, x = np.divmod(voxels[begin], width)
    z, y = np.divmod(row, height)
    return Runs(voxels, begin, found[begin].astype(np.int64), length, z, y, x)
