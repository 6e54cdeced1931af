"""Average precision of label maps by hand, then against pycocotools with the size as the score."""

from __future__ import annotations

import contextlib
import io
import math

from prompt_das.evaluation.average_precision import average_precision, detection_scores, matched_predictions
from prompt_das.evaluation.metrics import contingency_table

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def row(text: str) -> np.ndarray:
    """Label map drawn as text: '.' is background, digits are ids."""
    return np.array([0 if pixel == "." else int(pixel) for pixel in text])


def ap(true: str, pred: str, percent: int = 50) -> float:
    return average_precision(contingency_table(row(true), row(pred)), percent)


@pytest.mark.parametrize("percent", [50, 75, 100])
def test_the_truth_itself_is_perfect(percent: int) -> None:
    assert ap("11.222.3", "55.111.9", percent) == 1


def test_nothing_predicted_and_nothing_true() -> None:
    assert ap("11.22", ".....") == 0
    assert math.isnan(ap(".....", "11.22"))


def test_a_missed_instance_ends_the_curve() -> None:
    # 1 of 2 found, no false positive: precision 1 at the recalls 0, 0.01 … 0.5, which are 51 of 101.
    assert ap("111.22", "111...") == 51 / 101


def test_large_false_positives_cost_more_than_small_ones() -> None:
    # A false positive before both: precision 1/2, then 2/3, made monotone 2/3 at every recall.
    assert ap("111.222......", "111.222.33333") == pytest.approx(2 / 3)
    # After both: every recall is reached before it.
    assert ap("111.222......", "111.222....33") == 1


def test_predictions_of_equal_size_enter_together_whatever_their_ids() -> None:
    # Three of 2 pixels, of which two are right: one step to recall 1 with precision 2/3.
    for pred in ("11.22.33", "33.22.11", "22.33.11"):
        assert ap("11.22...", pred) == pytest.approx(2 / 3)


def test_thresholds() -> None:
    true, pred = "1111", "111."  # IoU 3/4
    assert ap(true, pred, 75) == 1
    assert ap(true, pred, 76) == 0
    assert ap("11..", "1...", 50) == 0  # exactly 1/2 could match two
    assert ap("111.", "11..", 50) == 1


def test_only_one_to_one_thresholds() -> None:
    for percent in (49, 101, 0):
        with pytest.raises(ValueError, match=f"threshold is {percent} %"):
            ap("1", "1", percent)


def test_matched_predictions_in_the_order_of_their_ids() -> None:
    table = contingency_table(row("111.222.333"), row("77..555.1.."))
    assert matched_predictions(table, 50).tolist() == [False, True, True]  # 1, 5, 7
    assert matched_predictions(table, 75).tolist() == [False, True, False]


def test_detection_scores() -> None:
    table = contingency_table(row("111.222.333"), row("77..555.1.9"))
    assert detection_scores(table, 50) == {
        **{"tp": 2, "fp": 2, "fn": 1},
        **{"precision": 2 / 4, "recall": 2 / 3, "accuracy": 2 / 5},
    }
    nothing = detection_scores(contingency_table(row("..."), row("...")), 50)
    assert all(math.isnan(nothing[name]) for name in ("precision", "recall", "accuracy"))


def coco_ap(true: np.ndarray, pred: np.ndarray, thresholds: list[float]) -> list[float]:
    """AP of pycocotools, with the size of an instance as its score."""

    def instances(labels: np.ndarray) -> list[dict]:
        found = []
        for number, instance in enumerate(np.unique(labels[labels > 0]), start=1):
            mask = (labels == instance).reshape(1, -1)
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            common = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
            found.append({**common, "area": int(mask.sum()), "score": float(mask.sum()), "segmentation": rle})
        return found

    def coco(annotations: list[dict]) -> COCO:
        data = COCO()
        image = {"id": 1, "height": 1, "width": true.size}
        data.dataset = {"images": [image], "categories": [{"id": 1}], "annotations": annotations}
        data.createIndex()
        return data

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco(instances(true)), coco(instances(pred)), "segm")
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 0].mean(axis=1).tolist()


maps = hnp.arrays(np.int64, 40, elements=st.integers(0, 4)).map(np.sort)  # runs, so that IoUs are high


@settings(max_examples=200)
@given(maps, maps, st.integers(0, 3))
def test_equals_coco_where_no_two_predictions_have_one_size(true: np.ndarray, pred: np.ndarray, shift: int) -> None:
    pred = np.roll(pred, shift)
    table = contingency_table(true, pred)
    if len(table.true_ids) == 0 or len(set(table.pred_areas)) < len(table.pred_ids) or len(table.pred_ids) == 0:
        return
    expected = coco_ap(true, pred, [0.5 + 1e-9, 0.75])
    assert [average_precision(table, 50), average_precision(table, 75)] == pytest.approx(expected, abs=1e-9)


def brute_ap(true: np.ndarray, pred: np.ndarray, percent: int) -> float:
    """The definition, word for word: at each recall the best precision of any cut by size that reaches it."""
    truths = [true == i for i in np.unique(true[true > 0])]
    predictions = [pred == i for i in np.unique(pred[pred > 0])]
    right = [
        any(100 * (g & p).sum() >= percent * (g | p).sum() and 2 * (g & p).sum() > (g | p).sum() for g in truths)
        for p in predictions
    ]
    cuts = []
    for size in {p.sum() for p in predictions}:
        kept = [ok for ok, p in zip(right, predictions, strict=True) if p.sum() >= size]
        cuts.append((sum(kept), sum(kept) / len(kept)))
    levels = range(101)
    best = [max((p for tp, p in cuts if 100 * tp >= level * len(truths)), default=0) for level in levels]
    return sum(best) / len(levels)


@settings(max_examples=200)
@given(maps, maps, st.integers(0, 3), st.integers(50, 100))
def test_equals_the_definition(true: np.ndarray, pred: np.ndarray, shift: int, percent: int) -> None:
    pred = np.roll(pred, shift)
    if (true > 0).any():
        got = average_precision(contingency_table(true, pred), percent)
        assert got == pytest.approx(brute_ap(true, pred, percent), abs=1e-12)
