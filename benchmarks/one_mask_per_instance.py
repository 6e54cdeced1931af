"""Dice, AJI and PQ as most published scripts compute them: a boolean mask of the whole slice for each instance.

Written from the definitions (Kumar et al. 2017, Algorithm 1; Kirillov et al. 2019, Eq. 1), for the comparison only.
It is not the slowest of its kind: masks are made when they are needed and not kept, which would take 16 GB for a slice
of 4096 x 4096 with 470 instances, and only pairs that overlap are compared.
"""

from __future__ import annotations

import numpy as np


def scores(true: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """Dice, AJI and PQ in [0, 1] of two integer label maps (H, W), 0 is background."""
    true_ids, pred_ids = instance_ids(true), instance_ids(pred)
    if not true_ids or not pred_ids:
        perfect = float(not true_ids and not pred_ids)
        return {"Dice": perfect, "AJI": perfect, "PQ": perfect}

    intersection_sum = union_sum = true_positives = 0
    iou_sum = 0.0
    used = set()
    for i in true_ids:
        true_mask = true == i
        best_iou, best_intersection, best_union, best_j = 0.0, 0, area(true_mask), None
        for j in instance_ids(pred[true_mask]):
            pred_mask = pred == j
            intersection = area(true_mask & pred_mask)
            union = area(true_mask | pred_mask)
            iou = intersection / union
            if iou > best_iou:
                best_iou, best_intersection, best_union, best_j = iou, intersection, union, j
        intersection_sum += best_intersection
        union_sum += best_union
        if best_j is not None:
            used.add(best_j)
        if best_iou > 0.5:  # then no other instance can claim the same prediction
            true_positives += 1
            iou_sum += best_iou
    for j in pred_ids:
        if j not in used:
            union_sum += area(pred == j)

    true_mask, pred_mask = true > 0, pred > 0
    dice = 2 * area(true_mask & pred_mask) / (area(true_mask) + area(pred_mask))
    # TP + FP / 2 + FN / 2 is half of all instances.
    return {"Dice": dice, "AJI": intersection_sum / union_sum, "PQ": 2 * iou_sum / (len(true_ids) + len(pred_ids))}


def area(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def instance_ids(labels: np.ndarray) -> list[int]:
    return [i for i in np.unique(labels).tolist() if i != 0]
