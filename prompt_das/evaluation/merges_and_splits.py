"""Instances that a segmentation joins, and those that it cuts apart."""

from __future__ import annotations

from typing import NamedTuple

from prompt_das.evaluation.metrics import ContingencyTable

import numpy as np
from numpy.typing import NDArray


class MergesAndSplits(NamedTuple):
    """Numbers of instances."""

    merges: int  # predicted instances that hold two or more true ones
    merged: int  # the true instances in them
    splits: int  # true instances that hold two or more predicted ones
    pieces: int  # the predicted instances in them


def count_merges_and_splits(table: ContingencyTable) -> MergesAndSplits:
    """Count merges and splits; one instance *holds* another if it covers more than half of that one's voxels.

    So an instance is held by one at most, and a ragged border, or a neighbor's edge, is neither merge nor split.
    """
    merges, merged = _holders(table.pred_index, table.true_areas[table.true_index], table)
    splits, pieces = _holders(table.true_index, table.pred_areas[table.pred_index], table)
    return MergesAndSplits(merges, merged, splits, pieces)


def _holders(holder: NDArray, held_areas: NDArray, table: ContingencyTable) -> tuple[int, int]:
    """How many hold two or more, and how many these hold together; (k,) holder and held area of each pair."""
    numbers = np.bincount(holder[2 * table.intersections > held_areas])
    several = numbers[numbers > 1]
    return len(several), int(several.sum())
