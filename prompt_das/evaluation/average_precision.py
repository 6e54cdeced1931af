"""Average precision of instances without confidences, as in the MitoEM challenge.

AP ranks predictions by their confidence, which a label volume does not have. The evaluator of the MitoEM challenge
(Wei et al., MICCAI 2020; ygCoconut/mAP_3Dvolume) then takes the **size** of a predicted instance, in voxels, as its
confidence, and so does this module: large instances come first. Its other rules are COCO's: a prediction is right if
its IoU with a true instance is at least the threshold, precision is made monotone from the right, and AP is its mean at
the 101 recalls 0, 0.01 … 1, with 0 where a recall is not reached.

Two rules make AP independent of the numbers that instances happen to have: predictions of equal size enter together
(the challenge's evaluator takes them one by one), and the IoU of a match must be above 1/2 at AP-50, too, which makes
matches one-to-one, as in PQ. Exactly 1/2 is a match there in COCO.

Small false positives come last and hardly lower such an AP (Franco-Barranco et al., IEEE TMI 2023). So
:func:`detection_scores` has the *accuracy* TP / (TP + FP + FN), by which the challenge ranks today; it needs no order.

Tables are in pixels or voxels, of one slice or of a whole volume; n true instances, m predicted ones.
"""

from __future__ import annotations

from prompt_das.evaluation.metrics import ContingencyTable

import numpy as np
from numpy.typing import NDArray

RECALLS = 101  # recalls at which COCO samples the precision


def matched_predictions(table: ContingencyTable, percent: int) -> NDArray[np.bool_]:
    """(m,) whether a prediction has a match: a true instance with an IoU of at least ``percent``, and above 50 %.

    Decided in integers. No two predictions match the same instance.

    Raises:
        ValueError: ``percent`` is not within 50 … 100, where matches are one-to-one.
    """
    if not 50 <= percent <= 100:
        raise ValueError(f"the IoU threshold is {percent} %; below 50 % or above 100 % there is no one-to-one match")
    right = table.matches & (100 * table.intersections >= percent * table.unions)
    matched = np.zeros(len(table.pred_ids), bool)
    matched[table.pred_index[right]] = True
    return matched


def average_precision(table: ContingencyTable, percent: int) -> float:
    """AP in [0, 1] at one IoU threshold in percent, the size of a prediction being its confidence; see the module.

    Returns:
        nan without a true instance, 0 without a prediction.

    Raises:
        ValueError: ``percent`` is not within 50 … 100.
    """
    matched = matched_predictions(table, percent)
    true = len(table.true_ids)
    if not true:
        return float("nan")
    sizes, group = np.unique(-table.pred_areas, return_inverse=True)  # falling sizes
    right = np.cumsum(np.bincount(group, weights=matched, minlength=len(sizes))).astype(np.int64)
    taken = np.cumsum(np.bincount(group, minlength=len(sizes)))
    precision = np.maximum.accumulate((right / taken)[::-1])[::-1]
    # Recall i / 100 is reached by the first predictions with 100 · right >= i · true; further ones stay at 0.
    reached = np.searchsorted((RECALLS - 1) * right, true * np.arange(RECALLS))
    return float(np.append(precision, 0.0)[reached].mean())


def detection_scores(table: ContingencyTable, percent: int) -> dict[str, float]:
    """Matched and unmatched instances at one IoU threshold in percent.

    Returns:
        ``tp``, ``fp``, ``fn``, and in [0, 1] ``precision``, ``recall`` and ``accuracy`` = tp / (tp + fp + fn); nan
        where a denominator is 0.

    Raises:
        ValueError: ``percent`` is not within 50 … 100.
    """
    tp = int(matched_predictions(table, percent).sum())
    fp, fn = len(table.pred_ids) - tp, len(table.true_ids) - tp
    ratios = {"precision": tp + fp, "recall": tp + fn, "accuracy": tp + fp + fn}
    return {
        **{"tp": tp, "fp": fp, "fn": fn},
        **{name: tp / whole if whole else float("nan") for name, whole in ratios.items()},
    }
