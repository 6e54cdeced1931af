"""The overlaps of two label volumes, counted slice by slice, so that neither volume is ever in memory as a whole."""

from __future__ import annotations

from collections import Counter

from prompt_das.evaluation.metrics import ContingencyTable

import numpy as np


class OverlapTable:
    """A sparse table (true id, predicted id) -> voxels. Its size is that of the instances and pairs that overlap."""

    def __init__(self) -> None:
        self._true: Counter[int] = Counter()
        self._pred: Counter[int] = Counter()
        self._pairs: Counter[tuple[int, int]] = Counter()

    def add(self, table: ContingencyTable) -> None:
        """Count the pixels of a slice in; an id means the same instance in every slice."""
        _count(self._true, table.true_ids.tolist(), table.true_areas)
        _count(self._pred, table.pred_ids.tolist(), table.pred_areas)
        true_ids, pred_ids = table.true_ids[table.true_index].tolist(), table.pred_ids[table.pred_index].tolist()
        _count(self._pairs, list(zip(true_ids, pred_ids, strict=True)), table.intersections)

    def total(self) -> ContingencyTable:
        """The table of the whole volume, in voxels: what :func:`metrics.contingency_table` gives of all slices."""
        true_ids, pred_ids, pairs = sorted(self._true), sorted(self._pred), sorted(self._pairs)
        true_index = {instance: index for index, instance in enumerate(true_ids)}
        pred_index = {instance: index for index, instance in enumerate(pred_ids)}
        columns = (
            true_ids,
            pred_ids,
            [self._true[instance] for instance in true_ids],
            [self._pred[instance] for instance in pred_ids],
            [true_index[instance] for instance, _ in pairs],
            [pred_index[instance] for _, instance in pairs],
            [self._pairs[pair] for pair in pairs],
        )
        return ContingencyTable(*(np.array(column, np.int64) for column in columns))


def _count(counter: Counter, keys: list, voxels: np.ndarray) -> None:
    """Add (n,) voxels to the counts of n keys."""
    for key, number in zip(keys, voxels.tolist(), strict=True):
        counter[key] += number
