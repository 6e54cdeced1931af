"""The metrics on pictures small enough to check by hand, then against a word-for-word statement of each definition."""

from __future__ import annotations

import time
from random import Random

from prompt_das.evaluation.metrics import (
    COUNTS,
    aggregated_jaccard_index,
    contingency_table,
    count,
    dice,
    evaluate_slice,
    found_instances,
    panoptic_quality,
    pool,
    scores,
)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def picture(*rows: str) -> np.ndarray:
    """Label map drawn as text: '.' is background, digits are ids."""
    return np.array([[0 if pixel == "." else int(pixel) for pixel in row] for row in rows])


# ---------------------------------------------------------------------------------------------- by hand


def test_one_instance_shifted_by_one_column() -> None:
    true = picture(
        "11..",
        "11..",
        "....",
    )
    pred = picture(
        ".2..",
        ".2..",
        "....",
    )
    # 2 pixels in common, 4 + 2 in the two maps, 4 in the union: IoU is exactly 1/2, which is no match.
    assert dice(true, pred) == 2 * 2 / (4 + 2)
    assert aggregated_jaccard_index(true, pred) == 2 / 4
    assert panoptic_quality(true, pred) == (0.0, 0.0, 0.0, 0, 1, 1, 0.0)


def test_a_match_a_miss_and_a_false_alarm() -> None:
    true = picture(
        "111..2",
        "111..2",
        "......",
    )
    pred = picture(
        "111...",
        "11....",
        "...777",
    )
    # Instance 1 has IoU 5/6 with prediction 1; instance 2 is missed (2 px), prediction 7 is a false alarm (3 px).
    assert dice(true, pred) == 2 * 5 / (8 + 8)
    assert aggregated_jaccard_index(true, pred) == 5 / (6 + 2 + 3)
    quality = panoptic_quality(true, pred)
    assert quality.sq == 5 / 6
    assert quality.rq == 1 / (1 + 0.5 + 0.5)
    assert quality.pq == pytest.approx(quality.sq * quality.rq)
    assert (quality.tp, quality.fp, quality.fn) == (1, 1, 1)


def test_one_prediction_may_serve_several_true_instances_in_aji() -> None:
    true = picture("111122", "111122")
    pred = picture("333333", "333333")
    # Prediction 3 is the best one of both: intersections 8 + 4, unions 12 + 12, nothing is left unused.
    assert aggregated_jaccard_index(true, pred) == (8 + 4) / (12 + 12)
    # In PQ it can match only one of them: 8/12 is above 1/2, 4/12 is not.
    assert panoptic_quality(true, pred).pq == pytest.approx((8 / 12) / (1 + 0 / 2 + 1 / 2))


def test_aji_takes_the_best_iou_and_not_the_largest_overlap() -> None:
    true = picture(
        "11111.....",
        "2222222222",
    )
    pred = picture(
        "55444.....",
        "4444444444",
    )
    # Instance 1 shares 3 px with prediction 4 (IoU 3/15), but takes 5, with which it shares 2 (IoU 2/5).
    # Instance 2 takes prediction 4 (IoU 10/13).
    assert aggregated_jaccard_index(true, pred) == (2 + 10) / (5 + 13)


def test_two_touching_instances_cut_apart_show_why_tables_name_their_protocol() -> None:
    """The same prediction scored against the data set's ids and against the components of its mask."""
    true = np.repeat([1, 2], 10)[None].repeat(10, axis=0)
    pred = true.copy()
    pred[:, 10] = 0
    assert aggregated_jaccard_index(true, pred) == 0.95
    components = (true > 0).astype(int)  # the two instances touch: one component
    assert aggregated_jaccard_index(components, pred) == 100 / (200 + 90)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [("....", "....", 1.0), ("11..", "....", 0.0), ("....", "11..", 0.0), ("11..", "..11", 0.0), ("1122", "2211", 1.0)],
    ids=["both empty", "no prediction", "no truth", "disjoint", "ids do not matter"],
)
def test_extreme_cases(true: str, pred: str, expected: float) -> None:
    result = evaluate_slice(picture(true), picture(pred))
    assert [result[name] for name in ("Dice", "AJI", "PQ", "SQ", "RQ")] == [expected] * 5


def test_maps_without_a_pixel_are_empty() -> None:
    assert evaluate_slice(np.zeros((0, 4), int), np.zeros((0, 4), int))["AJI"] == 1.0


def test_found_instances_are_those_above_one_half() -> None:
    table = contingency_table(picture("1122.99"), picture("11.2..."))
    assert table.true_ids.tolist() == [1, 2, 9]
    assert found_instances(table).tolist() == [True, False, False]


def test_pooled_scores_come_from_summed_counts() -> None:
    """Pooling weighs slices by their content: a large perfect slice and a small empty-handed one."""
    perfect, missed = np.ones((3, 3), int), picture("1")
    counts = [count(contingency_table(perfect, perfect)), count(contingency_table(missed, 0 * missed))]
    pooled = scores(pool(counts))
    assert pooled["Dice"] == 18 / 19
    assert pooled["AJI"] == 9 / 10
    assert pooled["PQ"] == 1 / 1.5
    assert set(pool([])) == set(COUNTS)


# ---------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_any_integer_type(dtype: type) -> None:
    true, pred = picture("1.11"), picture("1..1")
    assert evaluate_slice(true.astype(dtype), pred) == evaluate_slice(true, pred)


def test_the_largest_ids_stay_apart() -> None:
    top = np.iinfo(np.uint64).max
    true = np.array([[top, top, top - 1, 0]], dtype=np.uint64)
    assert panoptic_quality(true, np.array([[1, 1, 65_536, 0]])).tp == 2


def test_a_shared_table_gives_the_same_numbers() -> None:
    true, pred = picture("1122.3"), picture("11.2.3")
    table = contingency_table(true, pred)
    assert dice(table) == dice(true, pred)
    assert aggregated_jaccard_index(table) == aggregated_jaccard_index(true, pred)
    assert panoptic_quality(table) == panoptic_quality(true, pred)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"true is \(2, 2\), pred is \(2, 3\)"):
        dice(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(TypeError, match="pred is of type float64"):
        dice(np.zeros((2, 2), int), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="negative label -1"):
        dice(np.array([[-1]]), np.array([[1]]))
    with pytest.raises(TypeError, match="pred is missing"):
        dice(np.zeros((2, 2), int))


# ---------------------------------------------------------------------------------------------- brute force

ID_SETS = ([0, 1, 2, 3], [0, 2, 7, 255], [0, 65_535, 65_536, 2**31 + 5], [0, 1, 2**40, 2**62])
label_maps = st.tuples(
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), st.sampled_from(ID_SETS), st.sampled_from(ID_SETS)
).flatmap(
    lambda drawn: st.tuples(*(hnp.arrays(np.int64, drawn[0], elements=st.sampled_from(ids)) for ids in drawn[1:]))
)


def masks(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == i for i in np.unique(labels) if i != 0]


def brute_aji(true: np.ndarray, pred: np.ndarray) -> float:
    """Algorithm 1 of Kumar et al. 2017, line by line, with one mask per instance."""
    truths, predictions, used = masks(true), masks(pred), set()
    intersection = union = 0
    for g in truths:
        ious = [(g & s).sum() / (g | s).sum() for s in predictions]
        if max(ious, default=0) == 0:
            union += g.sum()
            continue
        best = int(np.argmax(ious))
        intersection += (g & predictions[best]).sum()
        union += (g | predictions[best]).sum()
        used.add(best)
    union += sum(s.sum() for j, s in enumerate(predictions) if j not in used)
    return intersection / union if union else 1.0


def brute_pq(true: np.ndarray, pred: np.ndarray) -> tuple[float, int, int, int]:
    truths, predictions = masks(true), masks(pred)
    ious = [(g & s).sum() / (g | s).sum() for g in truths for s in predictions]
    matches = [iou for iou in ious if iou > 0.5]
    fp, fn = len(predictions) - len(matches), len(truths) - len(matches)
    total = len(matches) + fp / 2 + fn / 2
    return (sum(matches) / total if total else 1.0), len(matches), fp, fn


@settings(max_examples=300)
@given(label_maps)
def test_equals_the_definitions(maps: tuple[np.ndarray, np.ndarray]) -> None:
    true, pred = maps
    size = (true > 0).sum() + (pred > 0).sum()
    assert dice(true, pred) == (2 * ((true > 0) & (pred > 0)).sum() / size if size else 1.0)
    assert aggregated_jaccard_index(true, pred) == pytest.approx(brute_aji(true, pred), abs=1e-12)
    quality, (pq, tp, fp, fn) = panoptic_quality(true, pred), brute_pq(true, pred)
    assert quality.pq == pytest.approx(pq, abs=1e-12)
    assert (quality.tp, quality.fp, quality.fn) == (tp, fp, fn)
    assert quality.pq == pytest.approx(quality.sq * quality.rq, abs=1e-12)


@settings(max_examples=100)
@given(label_maps, st.randoms(use_true_random=False))
def test_only_the_partition_counts(maps: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    """Moving the pixels around together and renaming the ids changes nothing."""
    true, pred = maps
    order = list(range(true.size))
    random.shuffle(order)
    renamed = np.where(true > 0, true + 1, 0)
    moved = evaluate_slice(renamed.ravel()[order], pred.ravel()[order])
    before = evaluate_slice(true, pred)
    assert moved == pytest.approx(before)


@settings(max_examples=100)
@given(label_maps)
def test_areas_and_overlaps_add_up(maps: tuple[np.ndarray, np.ndarray]) -> None:
    true, pred = maps
    table = contingency_table(true, pred)
    for labels, ids, areas in ((true, table.true_ids, table.true_areas), (pred, table.pred_ids, table.pred_areas)):
        assert dict(zip(ids, areas, strict=True)) == {i: (labels == i).sum() for i in set(labels[labels > 0])}
    for i, j, size in zip(table.true_index, table.pred_index, table.intersections, strict=True):
        assert size == ((true == table.true_ids[i]) & (pred == table.pred_ids[j])).sum()


def test_a_large_slice_takes_no_noticeable_time() -> None:
    """2048 x 2048 with some 500 instances, in processor time: a loop over instances would take many times the bound."""
    rows, columns = np.divmod(np.arange(2048), 93)[0], np.arange(2048)
    true = np.where((columns % 93 < 40) & (columns[:, None] % 93 < 40), rows[:, None] * 23 + rows + 1, 0)
    pred = np.roll(true, (3, 5), axis=(0, 1))
    start = time.thread_time()
    result = evaluate_slice(true, pred)
    assert time.thread_time() - start < 0.25
    assert result["tp"] > 400
