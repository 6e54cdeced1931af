"""Comparison of label volumes with the truth, whatever tool they come from, one slice at a time.

Shapes: H x W pixels of a slice. A label map is an integer (H, W) array, 0 is background; an id means the same instance
in every slice. All scores are in percent.

What is compared, in slices by the protocols of :mod:`prompt_das.evaluation.evaluator`, and in 3-D:
    paper     8-connected components of the foreground of the slice; specks are removed from predictions
    instance  ids of the slice as they are
    volume    ids of the whole volume as they are: instances in 3-D
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prompt_das.evaluation import metrics
from prompt_das.evaluation.average_precision import average_precision, detection_scores
from prompt_das.evaluation.merges_and_splits import count_merges_and_splits
from prompt_das.evaluation.overlap_table import OverlapTable
from prompt_das.ops.connected_components import MIN_INSTANCE_SIZE, connected_components, semantic_to_instances

import numpy as np
from numpy.typing import NDArray

IOU_PERCENT = (50, 75)  # thresholds of the average precision


class LabelComparison:
    """Counts of several predictions against one truth; memory grows with the instances, not with the voxels.

    Args:
        names: of the predictions.
        truth_is_mask: the truth has no ids; only protocol ``paper`` and the Dice of the volume are measured.
        min_size: in protocol ``paper``, predicted components of at most so many pixels are removed, as where a network
            is evaluated.
    """

    def __init__(self, names: Iterable[str], *, truth_is_mask: bool = False, min_size: int = MIN_INSTANCE_SIZE) -> None:
        self.names = tuple(names)
        self.protocols = ("paper",) if truth_is_mask else ("paper", "instance")
        self.min_size = min_size
        self.slices: list[dict[str, dict[str, dict[str, float]]]] = []  # of each slice: name -> protocol -> counts
        self._volumes = {name: OverlapTable() for name in self.names}

    def add(self, truth: NDArray, predictions: Mapping[str, NDArray]) -> None:
        """Count a slice in, (H, W) each.

        Raises:
            ValueError, TypeError: label maps that :func:`metrics.contingency_table` does not take.
        """
        components = connected_components(truth > 0)
        counts = {}
        for name in self.names:
            labels = predictions[name]
            table = metrics.contingency_table(truth, labels)
            self._volumes[name].add(table)
            found = metrics.contingency_table(components, semantic_to_instances(labels > 0, self.min_size))
            tables = {"paper": found, "instance": table}
            counts[name] = {protocol: metrics.count(tables[protocol]) for protocol in self.protocols}
        self.slices.append(counts)

    def results(self) -> dict[str, Any]:
        """All numbers of the slices so far.

        Returns:
            ``truth``: ``instances`` and their ``median size`` in voxels. ``predictions``, for each name: ``paper`` and
            ``instance`` with the means over slices and the pooled scores of :func:`metrics.summarize`; ``volume`` of
            :func:`volume_scores`. Where the truth is a mask, only the scores that need no ids.
        """
        tables = {name: table.total() for name, table in self._volumes.items()}
        results: dict[str, Any] = {"truth": {}, "predictions": {}}
        for name, table in tables.items():
            scores = {
                protocol: metrics.summarize([counts[name][protocol] for counts in self.slices])
                for protocol in self.protocols
            }
            volume = volume_scores(table)
            if "instance" in self.protocols:
                results["truth"] = _sizes(table.true_areas)
            else:
                volume = {"Dice": volume["Dice"], **_sizes(table.pred_areas)}
            results["predictions"][name] = {**scores, "volume": volume}
        return results

    def single_ids(self) -> dict[str, int]:
        """Predictions whose foreground is one id in the whole volume, perhaps a mask: name -> id."""
        ids = {name: table.total().pred_ids.tolist() for name, table in self._volumes.items()}
        return {name: found[0] for name, found in ids.items() if len(found) == 1}


def volume_scores(table: metrics.ContingencyTable) -> dict[str, float]:
    """Scores of instances in 3-D.

    Returns:
        In percent ``Dice``, ``AJI``, ``PQ``, ``SQ``, ``RQ``, ``AP-50``, ``AP-75``, and ``precision``, ``recall``,
        ``accuracy`` at either; numbers of ``tp``, ``fp``, ``fn`` at either, predicted ``instances`` and their
        ``median size`` in voxels (nan without any), ``merges``, ``merged``, ``splits``, ``pieces`` (see
        :mod:`prompt_das.evaluation.merges_and_splits`).
    """
    result = {name: 100 * score for name, score in metrics.scores(metrics.count(table)).items()}
    for percent in IOU_PERCENT:
        result[f"AP-{percent}"] = 100 * average_precision(table, percent)
        for name, value in detection_scores(table, percent).items():
            result[f"{name}-{percent}"] = value if name in ("tp", "fp", "fn") else 100 * value
    return {**result, **_sizes(table.pred_areas), **count_merges_and_splits(table)._asdict()}


def _sizes(areas: NDArray[np.int64]) -> dict[str, float]:
    return {"instances": len(areas), "median size": float(np.median(areas)) if len(areas) else float("nan")}
