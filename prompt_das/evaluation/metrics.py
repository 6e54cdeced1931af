"""Dice, AJI and PQ of a predicted label map, from one sparse contingency table.

Shapes: label maps are integer (or boolean) arrays of any equal shape; 0 is background, every other value the id of
one instance. Ids may have gaps and any size: n true instances, m predicted ones, k pairs of them that overlap.

Everything that is measured is a function of three lists (areas of the true instances, areas of the predicted ones,
sizes of their overlaps), so the pixels are read once, whatever the number of instances or metrics.
The sums behind each metric (:func:`count`) are additive over slices: add them up and :func:`scores` is the pooled
result, take the mean of the scores of single slices and it is the per-slice mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCORES = ("Dice", "AJI", "PQ", "SQ", "RQ")
COUNTS = (
    *("intersection", "true_pixels", "pred_pixels"),  # Dice
    *("aji_intersection", "aji_union"),  # AJI
    *("tp", "fp", "fn", "iou_sum"),  # PQ
)


class ContingencyTable(NamedTuple):
    """Which instance overlaps which, in pixels."""

    true_ids: NDArray  # (n,) sorted, without background
    pred_ids: NDArray  # (m,)
    true_areas: NDArray[np.int64]  # (n,)
    pred_areas: NDArray[np.int64]  # (m,)
    true_index: NDArray[np.int64]  # (k,) position in true_ids of each overlapping pair
    pred_index: NDArray[np.int64]  # (k,) position in pred_ids
    intersections: NDArray[np.int64]  # (k,) > 0

    @property
    def unions(self) -> NDArray[np.int64]:
        """(k,) sizes of the unions of the overlapping pairs."""
        return self.true_areas[self.true_index] + self.pred_areas[self.pred_index] - self.intersections

    @property
    def matches(self) -> NDArray[np.bool_]:
        """(k,) whether the pair has an IoU above 1/2, which makes matches one-to-one.

        Decided in integers, so that exactly 1/2 is no match.
        """
        return 2 * self.intersections > self.unions


class PanopticQuality(NamedTuple):
    """PQ = SQ * RQ and the counts behind them (Kirillov et al. 2019, Eq. 1 and 2)."""

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou_sum: float


def contingency_table(true: ArrayLike, pred: ArrayLike) -> ContingencyTable:
    """Count the overlaps of two label maps of the same shape in one pass.

    Neighboring pixels mostly carry the same pair of labels, so the maps are first cut into runs of equal pairs;
    only the runs are sorted. This costs two comparisons a pixel and takes ids of any size and any number of gaps.

    Raises:
        ValueError: the shapes differ, or a label is negative.
        TypeError: a label map is not of integer or boolean type.
    """
    true, pred = _label_map(true, "true"), _label_map(pred, "pred")
    if true.shape != pred.shape:
        raise ValueError(f"label maps differ in shape: true is {true.shape}, pred is {pred.shape}; crop or resize one")
    true, pred = true.ravel(), pred.ravel()
    changes = true[1:] != true[:-1]
    changes |= pred[1:] != pred[:-1]
    starts = np.concatenate([np.zeros(min(true.size, 1), np.intp), np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=true.size)

    true_ids, true_index = np.unique(true[starts], return_inverse=True)
    pred_ids, pred_index = np.unique(pred[starts], return_inverse=True)
    for name, ids in (("true", true_ids), ("pred", pred_ids)):
        if ids.size and ids[0] < 0:
            raise ValueError(f"label map {name} holds the negative label {ids[0]}; ids are > 0, background is 0")
    pairs, pair_index = np.unique(true_index * len(pred_ids) + pred_index, return_inverse=True)
    true_areas = _sum_by(true_index, lengths, len(true_ids))
    pred_areas = _sum_by(pred_index, lengths, len(pred_ids))
    intersections = _sum_by(pair_index, lengths, len(pairs))
    true_index, pred_index = np.divmod(pairs, max(len(pred_ids), 1))

    # Background is the first id where it is present at all; it is dropped only now, so that areas count the pixels
    # of an instance that lie on the other map's background.
    true_skip, pred_skip = int(0 in true_ids[:1]), int(0 in pred_ids[:1])
    both = (true_index >= true_skip) & (pred_index >= pred_skip)
    return ContingencyTable(
        true_ids[true_skip:],
        pred_ids[pred_skip:],
        true_areas[true_skip:],
        pred_areas[pred_skip:],
        true_index[both] - true_skip,
        pred_index[both] - pred_skip,
        intersections[both],
    )


def dice(true: ArrayLike | ContingencyTable, pred: ArrayLike | None = None) -> float:
    """Dice of the foregrounds: 2|A and B| / (|A| + |B|); 1 if both are empty, 0 if one is.

    Args:
        true: true label map, or a :class:`ContingencyTable` (then without ``pred``).
        pred: predicted label map of the same shape.
    """
    return scores(count(_table(true, pred)))["Dice"]


def aggregated_jaccard_index(true: ArrayLike | ContingencyTable, pred: ArrayLike | None = None) -> float:
    """Aggregated Jaccard Index (Kumar et al. 2017, Algorithm 1); 1 if both maps are empty, 0 if one is.

    Each true instance G takes the prediction S of the highest IoU, adds ``|G and S|`` to the numerator and
    ``|G or S|`` to the denominator; without any overlap it adds ``|G|`` to the denominator. Each prediction never
    taken adds its area to the denominator. One prediction may be taken by several true instances. Where two
    predictions have the same IoU the one with the lower id is taken.

    Args:
        true: true label map, or a :class:`ContingencyTable` (then without ``pred``).
        pred: predicted label map of the same shape.
    """
    return scores(count(_table(true, pred)))["AJI"]


def panoptic_quality(true: ArrayLike | ContingencyTable, pred: ArrayLike | None = None) -> PanopticQuality:
    """Panoptic quality (Kirillov et al. 2019); all three 1 if both maps are empty, 0 without a match.

    A match is a pair of IoU strictly above 0.5. SQ is the mean IoU of the matches, RQ their F1 score.

    Args:
        true: true label map, or a :class:`ContingencyTable` (then without ``pred``).
        pred: predicted label map of the same shape.
    """
    counts = count(_table(true, pred))
    result = scores(counts)
    return PanopticQuality(
        result["PQ"],
        result["SQ"],
        result["RQ"],
        int(counts["tp"]),
        int(counts["fp"]),
        int(counts["fn"]),
        counts["iou_sum"],
    )


def evaluate_slice(true: ArrayLike | ContingencyTable, pred: ArrayLike | None = None) -> dict[str, float]:
    """All scores of one slice, in [0, 1], beside the counts they come from; see :func:`scores` and :func:`count`."""
    counts = count(_table(true, pred))
    return scores(counts) | counts


def count(table: ContingencyTable) -> dict[str, float]:
    """The sums behind the metrics, additive over slices.

    Returns:
        A number for each name in ``COUNTS``; all are whole numbers but ``iou_sum``.
    """
    intersections, unions, matches = table.intersections, table.unions, table.matches
    ious = intersections / unions
    # Best prediction of each true instance: sort by (instance, falling IoU, prediction), keep each first.
    order = np.lexsort((table.pred_index, -ious, table.true_index))
    found, first = np.unique(table.true_index[order], return_index=True)
    best = order[first]
    missed_area = table.true_areas.sum() - table.true_areas[found].sum()
    unused_area = table.pred_areas.sum() - table.pred_areas[np.unique(table.pred_index[best])].sum()
    tp = int(matches.sum())
    return {
        "intersection": int(intersections.sum()),
        "true_pixels": int(table.true_areas.sum()),
        "pred_pixels": int(table.pred_areas.sum()),
        "aji_intersection": int(intersections[best].sum()),
        "aji_union": int(unions[best].sum() + missed_area + unused_area),
        "tp": tp,
        "fp": len(table.pred_ids) - tp,
        "fn": len(table.true_ids) - tp,
        "iou_sum": float(ious[matches].sum()),
    }


def scores(counts: Mapping[str, float]) -> dict[str, float]:
    """Dice, AJI, PQ, SQ and RQ in [0, 1] from the counts of one slice, or from a sum of such counts."""
    tp, fp, fn = counts["tp"], counts["fp"], counts["fn"]
    empty = tp + fp + fn == 0
    return {
        "Dice": _ratio(2 * counts["intersection"], counts["true_pixels"] + counts["pred_pixels"]),
        "AJI": _ratio(counts["aji_intersection"], counts["aji_union"]),
        "PQ": _ratio(counts["iou_sum"], tp + fp / 2 + fn / 2),
        "SQ": 1.0 if empty else counts["iou_sum"] / max(tp, 1),
        "RQ": _ratio(tp, tp + fp / 2 + fn / 2),
    }


def pool(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up the counts of several slices."""
    counts = list(counts)
    return {name: sum(one[name] for one in counts) for name in COUNTS}


def summarize(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Counts of one or more slices -> scores in percent: the means over the slices, and the "pooled Dice" … of all."""
    means = np.mean([[scores(one)[name] for name in SCORES] for one in counts], axis=0)
    pooled = scores(pool(counts))
    return {
        **{name: 100 * float(mean) for name, mean in zip(SCORES, means, strict=True)},
        **{f"pooled {name}": 100 * pooled[name] for name in SCORES},
    }


def found_instances(table: ContingencyTable) -> NDArray[np.bool_]:
    """(n,) whether each true instance has a prediction with an IoU above 0.5."""
    found = np.zeros(len(table.true_ids), bool)
    found[table.true_index[table.matches]] = True
    return found


def _table(true: ArrayLike | ContingencyTable, pred: ArrayLike | None) -> ContingencyTable:
    if isinstance(true, ContingencyTable):
        return true
    if pred is None:
        raise TypeError("pred is missing: give two label maps, or one ContingencyTable")
    return contingency_table(true, pred)


def _label_map(labels: ArrayLike, name: str) -> NDArray:
    """A label map of integers; booleans become 0 and 1. Raises TypeError for other types."""
    labels = np.asarray(labels)
    if labels.dtype == bool:
        return labels.view(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"label map {name} is of type {labels.dtype}; convert it to integers or booleans first")
    return labels


def _sum_by(index: NDArray, values: NDArray, length: int) -> NDArray[np.int64]:
    """(length,) sum of the values of each index. Exact: float64 holds every whole number below 2**53."""
    return np.bincount(index, weights=values, minlength=length).astype(np.int64)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 1.0
