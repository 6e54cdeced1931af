"""Label volumes compared slice by slice: as the whole volume at once, and as a network's evaluation."""

from __future__ import annotations

import math

from prompt_das.evaluation import metrics
from prompt_das.evaluation.comparison_report import picture, slices_to_draw, table
from prompt_das.evaluation.evaluator import EMEvaluator
from prompt_das.evaluation.label_volumes import LabelComparison, volume_scores
from prompt_das.evaluation.overlap_table import OverlapTable
from prompt_das.utils.visualization import PREDICTION, TRUTH

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

ids = st.sampled_from([0, 0, 1, 2, 7, 2**31 + 5])
volumes = hnp.arrays(np.int64, (4, 3, 5), elements=ids)


@settings(max_examples=100)
@given(volumes, volumes)
def test_slice_by_slice_is_the_whole_volume_at_once(true: np.ndarray, pred: np.ndarray) -> None:
    sliced = OverlapTable()
    for true_slice, pred_slice in zip(true, pred, strict=True):
        sliced.add(metrics.contingency_table(true_slice, pred_slice))
    for one, other in zip(sliced.total(), metrics.contingency_table(true, pred), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def truth(rng: np.random.Generator) -> np.ndarray:
    """Two bars and a bar that only the last slices have, 4 x 24 x 40."""
    labels = np.zeros((4, 24, 40), np.int32)
    labels[:, 2:8, 2:20], labels[:, 12:20, 2:20], labels[2:, 2:20, 25:35] = 1, 2, 3
    return labels


def compare(truth: np.ndarray, **predictions: np.ndarray) -> LabelComparison:
    comparison = LabelComparison(predictions)
    for z, labels in enumerate(truth):
        comparison.add(labels, {name: volume[z] for name, volume in predictions.items()})
    return comparison


def test_the_truth_itself_is_perfect(truth: np.ndarray) -> None:
    scores = compare(truth, same=truth).results()["predictions"]["same"]
    for protocol in ("paper", "instance"):
        assert set(scores[protocol].values()) == {100.0}
    volume = scores["volume"]
    assert [volume[name] for name in ("Dice", "AJI", "PQ", "AP-50", "AP-75", "accuracy-75")] == [100.0] * 6
    assert [volume[name] for name in ("tp-75", "fp-75", "fn-75", "merges", "splits")] == [3, 0, 0, 0, 0]
    assert (volume["instances"], volume["median size"]) == (3, 432.0)  # of 4·6·18, 4·8·18, 2·18·10 voxels


def test_ids_that_do_not_go_on_in_the_next_slice_are_right_in_slices_and_wrong_in_3d(truth: np.ndarray) -> None:
    unlinked = np.where(truth > 0, truth + 10 * np.arange(4)[:, None, None], 0)
    scores = compare(truth, unlinked=unlinked).results()["predictions"]["unlinked"]
    assert scores["instance"]["PQ"] == 100.0
    assert scores["volume"]["AP-75"] == 0
    assert (scores["volume"]["instances"], scores["volume"]["splits"], scores["volume"]["pieces"]) == (10, 3, 10)


def test_a_merge_is_counted_in_3d_and_is_one_component_of_no_slice(truth: np.ndarray) -> None:
    scores = compare(truth, merged=np.where(truth == 2, 1, truth)).results()["predictions"]["merged"]
    assert scores["paper"]["PQ"] == 100.0
    assert scores["instance"]["PQ"] < 100
    assert (scores["volume"]["merges"], scores["volume"]["merged"]) == (1, 2)
    # 1 with 2 has 1008 voxels, of which 576 are those of 2: matched at 50 (576/1008), not at 75; 3 is whole.
    assert (scores["volume"]["tp-50"], scores["volume"]["tp-75"]) == (2, 1)


def test_protocol_paper_is_that_of_the_evaluator(truth: np.ndarray, rng: np.random.Generator) -> None:
    pred = np.where(rng.random(truth.shape) < 0.9, truth, 0)
    pred[:, 10, 37:39] = 9  # a speck, which either removes
    evaluator = EMEvaluator("test", distributed=False)
    for z, labels in enumerate(truth):
        probability = torch.from_numpy((pred[z] > 0).astype(np.float32))
        evaluator.process([{"image_id": str(z), "instances": labels}], [{"sem_seg": {"0%": probability}}])
    assert compare(truth, pred=pred).results()["predictions"]["pred"]["paper"] == evaluator.evaluate()["paper/0%"]


def test_a_prediction_of_nothing(truth: np.ndarray) -> None:
    results = compare(truth, nothing=0 * truth).results()
    volume = results["predictions"]["nothing"]["volume"]
    assert (volume["Dice"], volume["AP-50"], volume["instances"]) == (0, 0, 0)
    assert math.isnan(volume["median size"])
    assert "-" in table(results)


def test_a_mask_tells_foreground_only(truth: np.ndarray) -> None:
    comparison = LabelComparison(["a"], truth_is_mask=True)
    for labels in truth:
        comparison.add(labels > 0, {"a": labels})
    results = comparison.results()
    assert results["truth"] == {}
    assert set(results["predictions"]["a"]) == {"paper", "volume"}
    assert results["predictions"]["a"]["volume"] == {"Dice": 100.0, "instances": 3, "median size": 432.0}
    assert "AP-75" not in table(results)


def test_single_ids_are_named(truth: np.ndarray) -> None:
    assert compare(truth, mask=255 * (truth > 0), ids=truth).single_ids() == {"mask": 255}


def test_the_table_has_a_column_for_each_prediction(truth: np.ndarray) -> None:
    lines = table(compare(truth, ours=truth, other=0 * truth).results()).splitlines()
    assert lines[0].split() == ["truth", "ours", "other"]
    assert lines[2].split() == ["slices,", "paper", "Dice", "100.00", "0.00"]
    assert next(line.split() for line in lines if "instances" in line) == ["instances", "3", "3", "0"]


def test_the_picture_has_the_truth_and_each_prediction(truth: np.ndarray) -> None:
    drawn = picture(None, truth[0], {"a": truth[0], "b": np.roll(truth[0], 2, axis=1).astype(np.uint64)})
    width = drawn.shape[1] // 3
    panels = [drawn[:, n * width : (n + 1) * width].reshape(-1, 3).tolist() for n in range(3)]
    above = [panel[: len(panel) * 3 // 4] for panel in panels]  # without the legend
    assert [list(TRUTH) in panel for panel in above] == [True, False, True]  # a covers the truth
    assert [list(PREDICTION) in panel for panel in above] == [False, True, True]
    image = np.full(truth[0].shape, 200.0, np.float32)
    assert [200] * 3 in picture(image, truth[0], {"a": truth[0]}).reshape(-1, 3).tolist()


def test_slices_are_drawn_from_the_best_to_the_worst(truth: np.ndarray) -> None:
    truth = np.concatenate([truth, 0 * truth[:1]])  # the last one is empty, and never drawn
    pred = truth.copy()
    pred[1] = 0
    pred[2, :, :10] = 0
    counts = compare(truth, pred=pred).slices
    assert slices_to_draw(counts, 3) == [0, 3, 1]
    assert slices_to_draw(counts, 9) == [0, 3, 2, 1]
    assert slices_to_draw(counts, 2) == [0, 1]
    assert slices_to_draw(counts, 0) == []


def test_volume_scores_have_a_number_for_every_name(truth: np.ndarray) -> None:
    assert all(np.isfinite(list(volume_scores(metrics.contingency_table(truth, truth)).values())))
