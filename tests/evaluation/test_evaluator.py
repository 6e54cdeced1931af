"""The evaluator: what it counts, what it writes, and that the number of processes changes nothing."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from prompt_das.evaluation.evaluator import BASELINE, MAX_PENDING, EMEvaluator
from prompt_das.evaluation.reports import coco_instances
from prompt_das.utils.natural_sort import natural_key

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

SHARES = (BASELINE, "15%")


def blocks(*corners: tuple[int, int], side: int = 6, size: int = 32) -> np.ndarray:
    """Label map with a square instance at each (row, column)."""
    labels = np.zeros((size, size), np.int32)
    for index, (y, x) in enumerate(corners, start=1):
        labels[y : y + side, x : x + side] = index
    return labels


def add(
    evaluator: EMEvaluator,
    image_id: str,
    instances: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    prompts: Mapping[str, list[tuple[float, float]]] | None = None,
    density: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Give the evaluator one slice; ``predicted`` are masks or probabilities by share, ``density`` of centers, too."""
    points = {share: np.array(xy, np.float32).reshape(-1, 2) for share, xy in (prompts or {}).items()}
    one_input = {
        "image_id": image_id,
        "image": torch.full((1, *instances.shape), 90.0),
        "height": instances.shape[0],
        "width": instances.shape[1],
        "instances": instances,
        "prompts": points,
    }
    probabilities = {
        share: torch.as_tensor(one if one.dtype == np.float32 else np.float32(one > 0))
        for share, one in predicted.items()
    }
    output = {"sem_seg": probabilities}
    if density is not None:
        output["density"] = {share: torch.as_tensor(np.float32(one)) for share, one in density.items()}
    evaluator.process([one_input], [output])


# ---------------------------------------------------------------------------------------------- what it counts


def test_a_perfect_prediction_scores_100_in_both_protocols() -> None:
    evaluator = EMEvaluator("demo")
    truth = blocks((2, 2), (20, 20))
    add(evaluator, "0", truth, dict.fromkeys(SHARES, truth))
    results = evaluator.evaluate()
    assert list(results) == ["paper/0%", "paper/15%", "instance/0%", "instance/15%"]
    assert all(value == 100 for row in results.values() for value in row.values())


def test_the_protocols_differ_where_instances_touch() -> None:
    """Two instances of 10 x 10 px side by side, cut apart by one column: one component in the true mask."""
    truth = np.zeros((20, 40), np.int32)
    truth[5:15, 5:15], truth[5:15, 15:25] = 7, 70_000
    predicted = truth.copy()
    predicted[:, 15] = 0
    evaluator = EMEvaluator("demo")
    add(evaluator, "0", truth, {BASELINE: predicted})
    results = evaluator.evaluate()
    assert results["instance/0%"]["AJI"] == pytest.approx(95.0)
    assert results["paper/0%"]["AJI"] == pytest.approx(100 * 100 / 290)
    assert results["paper/0%"]["Dice"] == results["instance/0%"]["Dice"]


def two_that_touch() -> tuple[np.ndarray, np.ndarray]:
    """Discs (40, 60) of two instances that touch, and a peak of the density at the center of each."""
    y, x = np.mgrid[:40, :60]
    squared = np.stack([(y - 20) ** 2 + (x - center) ** 2 for center in (18, 41)])
    truth = np.where(squared.min(0) <= 144, 1 + squared.argmin(0), 0)
    return truth.astype(np.int32), np.exp(-squared / 32).max(0)


def test_instances_from_centers_are_those_of_protocol_instance_alone(tmp_path: Path) -> None:
    truth, density = two_that_touch()
    rows = {}
    for peaks in (None, (0.5, 5)):
        evaluator = EMEvaluator("demo", peaks=peaks, output_dir=tmp_path / str(peaks), save_rle=True)
        add(evaluator, "0", truth, {BASELINE: truth > 0}, density={BASELINE: density})
        rows[peaks] = evaluator.evaluate()
    assert rows[None]["instance/0%"]["PQ"] < 50
    assert rows[0.5, 5]["instance/0%"]["PQ"] > 90
    assert rows[0.5, 5]["paper/0%"] == rows[None]["paper/0%"]
    assert rows[0.5, 5]["paper/0%"]["PQ"] == 100  # components of both
    kinds = [json.loads((tmp_path / str(peaks) / "summary.json").read_text())["instances"] for peaks in rows]
    assert kinds == ["components", "centers"]
    written = [json.loads((tmp_path / str(peaks) / "instances_0.json").read_text()) for peaks in rows]
    assert [len(one) for one in written] == [1, 2]


def test_prompts_split_as_clicks_do() -> None:
    truth, density = two_that_touch()
    evaluator = EMEvaluator("demo", peaks=(0.5, 5), protocols=["instance"])
    prompts = {"15%": [(18.5, 20.5), (41.5, 20.5)]}
    nothing = dict.fromkeys(SHARES, 0 * density)
    add(evaluator, "0", truth, dict.fromkeys(SHARES, truth > 0), prompts, nothing)
    results = evaluator.evaluate()
    assert results["instance/0%"]["PQ"] < 50
    assert results["instance/15%"]["PQ"] > 90


def test_instances_from_centers_without_a_density_are_named() -> None:
    truth, _ = two_that_touch()
    evaluator = EMEvaluator("demo", peaks=(0.5, 5))
    add(evaluator, "7", truth, {BASELINE: truth > 0})
    with pytest.raises(ValueError, match=r"slice 7, 0% .*predicts no density, which instances from centers need"):
        evaluator.evaluate()


@pytest.mark.parametrize(("pixels", "kept"), [(15, False), (16, True)])
def test_specks_of_up_to_15_px_are_removed_from_the_prediction(pixels: int, kept: bool) -> None:
    truth, speck = blocks((2, 2)), np.zeros((32, 32), np.int32)
    speck[25, 5 : 5 + pixels] = 1
    evaluator = EMEvaluator("demo", protocols=["instance"])
    add(evaluator, "0", truth, {BASELINE: truth + speck})
    assert evaluator.evaluate()["instance/0%"]["PQ"] == pytest.approx(100 / 1.5 if kept else 100)


def test_a_pixel_is_foreground_above_the_threshold() -> None:
    truth = blocks((2, 2), (20, 20))
    probability = np.where(truth == 1, np.float32(0.51), np.float32(0.5))
    evaluator = EMEvaluator("demo", protocols=["instance"])
    add(evaluator, "0", truth, {BASELINE: probability})
    assert evaluator.evaluate()["instance/0%"]["RQ"] == pytest.approx(100 / 1.5)


def test_means_over_slices_beside_pooled_results() -> None:
    """A full slice found completely, and a slice of one instance that is missed."""
    evaluator = EMEvaluator("demo")
    full = blocks((0, 0), (10, 10), (20, 20))
    add(evaluator, "0", full, {BASELINE: full})
    add(evaluator, "1", blocks((5, 5)), {BASELINE: 0 * full})
    row = evaluator.evaluate()["paper/0%"]
    assert (row["Dice"], row["AJI"], row["PQ"]) == (50, 50, 50)
    assert row["pooled Dice"] == pytest.approx(100 * 2 * 3 / (4 + 3))
    assert row["pooled AJI"] == pytest.approx(100 * 3 / 4)
    assert row["pooled PQ"] == pytest.approx(100 * 3 / 3.5)


def test_prompt_response_by_hand() -> None:
    """Counts the instances missed without prompts that hold a prompt, and those of them that appear with it."""
    truth = blocks((0, 0), (0, 10), (0, 20), (20, 0), (20, 20))
    first = truth * (truth == 1)
    # Missed: 2, 3, 4, 5. Prompted: 1 (was not missed), 2, 3 and the background. Found then: 2, and 4 by itself.
    second = truth * np.isin(truth, [1, 2, 4])
    evaluator = EMEvaluator("demo")
    prompts = {BASELINE: [], "15%": [(2.5, 2.5), (12.5, 3.5), (22.5, 3.5), (15.5, 15.5)]}
    add(evaluator, "0", truth, {BASELINE: first, "15%": second}, prompts)
    row = evaluator.evaluate()["prompt response/15%"]
    for protocol in ("paper", "instance"):
        assert (row[f"{protocol} missed"], row[f"{protocol} found"], row[protocol]) == (2, 1, 50)


def test_a_prompt_belongs_to_the_pixel_that_holds_it() -> None:
    """(6.0, 0.5) is the left border of the seventh pixel, just outside of a square of columns 0 ... 5."""
    truth = blocks((0, 0))
    for x, missed in ((5.99, 1), (6.0, 0)):
        evaluator = EMEvaluator("demo", protocols=["instance"])
        add(evaluator, "0", truth, {BASELINE: 0 * truth, "15%": truth}, {"15%": [(x, 0.5)]})
        assert evaluator.evaluate()["prompt response/15%"]["instance missed"] == missed


def test_prompt_response_is_nan_if_nothing_was_missed_and_null_in_json(tmp_path: Path) -> None:
    truth = blocks((0, 0))
    evaluator = EMEvaluator("demo", output_dir=tmp_path)
    add(evaluator, "0", truth, dict.fromkeys(SHARES, truth), {"15%": [(2.5, 2.5)]})
    assert np.isnan(evaluator.evaluate()["prompt response/15%"]["paper"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["results"]["prompt response/15%"]["paper"] is None


def test_reset_discards_all_slices() -> None:
    evaluator, truth = EMEvaluator("demo"), blocks((0, 0))
    for index in range(MAX_PENDING + 2):  # some of them measured, some still waiting
        add(evaluator, f"old {index}", truth, {BASELINE: 0 * truth})
    evaluator.reset()
    add(evaluator, "1", truth, {BASELINE: truth})
    assert evaluator.evaluate()["paper/0%"]["Dice"] == 100


def test_no_slices_give_no_results(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert EMEvaluator("demo").evaluate() == {}
    assert "demo: no slices" in caplog.text


# ---------------------------------------------------------------------------------------------- what it writes


def three_slices(evaluator: EMEvaluator) -> list[np.ndarray]:
    """Slices with Dice of 100, 0 and 2/3 in this order, of three, one and two instances."""
    truths = [blocks((0, 0), (10, 10), (20, 20)), blocks((5, 5)), blocks((5, 5), (20, 20))]
    for index, (truth, found) in enumerate(zip(truths, (3, 0, 1), strict=True)):
        add(evaluator, f"demo/{index}", truth, dict.fromkeys(SHARES, truth * (truth <= found)), {"15%": [(7, 7)]})
    return truths


def test_files(tmp_path: Path) -> None:
    evaluator = EMEvaluator("demo", output_dir=tmp_path)
    three_slices(evaluator)
    results = evaluator.evaluate()

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["results"]["paper/0%"] == results["paper/0%"]
    assert (summary["dataset"], summary["slices"], summary["min_size"], summary["threshold"]) == ("demo", 3, 15, 0.5)

    with (tmp_path / "per_slice.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2
    paper = [row for row in rows if (row["protocol"], row["prompts"]) == ("paper", BASELINE)]
    assert [row["image_id"] for row in paper] == ["demo/0", "demo/1", "demo/2"]
    assert np.mean([float(row["Dice"]) for row in paper]) == pytest.approx(results["paper/0%"]["Dice"], abs=1e-3)
    assert [int(row["tp"]) for row in paper] == [3, 0, 1]

    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == [
        "0001_best_demo_0.png",
        "0002_median_demo_2.png",
        "0003_worst_demo_1.png",
    ]
    shape = cv2.imread(str(pictures[0])).shape
    assert shape[1] > 3 * 32  # truth, prediction without prompts, prediction with prompts
    assert not list(tmp_path.rglob("*.part"))


def test_no_pictures_are_written_where_their_number_is_0(tmp_path: Path) -> None:
    evaluator = EMEvaluator("demo", output_dir=tmp_path, num_pictures=0)
    three_slices(evaluator)
    evaluator.evaluate()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["per_slice.csv", "summary.json"]


def test_coco_rle_holds_the_predicted_instances(tmp_path: Path) -> None:
    evaluator = EMEvaluator("demo", output_dir=tmp_path, save_rle=True, num_pictures=0)
    truths = three_slices(evaluator)
    evaluator.evaluate()
    saved = json.loads((tmp_path / "instances_0.json").read_text())
    assert [one["image_id"] for one in saved] == ["demo/0"] * 3 + ["demo/2"]
    assert {one["score"] for one in saved} == {1.0}
    for one, instance in zip(saved, (1, 2, 3), strict=False):
        np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]), truths[0] == instance)
    assert (tmp_path / "instances_15.json").exists()


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_rle_in_one_pass_equals_one_mask_per_instance(labels: np.ndarray) -> None:
    probability = np.arange(labels.size, dtype=np.float32).reshape(labels.shape) / labels.size
    ids = [i for i in np.unique(labels) if i > 0]
    results = coco_instances(labels, probability, "0")
    assert len(results) == len(ids)
    for one, instance in zip(results, ids, strict=True):
        expected = coco_mask.encode(np.asfortranarray(labels == instance, dtype=np.uint8))
        assert one["segmentation"] == {"size": list(labels.shape), "counts": expected["counts"].decode()}
        assert one["score"] == pytest.approx(probability[labels == instance].mean())


def test_the_table_names_protocol_and_prompts(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = EMEvaluator("demo")
    three_slices(evaluator)
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
    for word in ("demo, 3 slices", "protocol", "paper", "instance", "15%", "pooled PQ", "prompt response"):
        assert word in caplog.text


def test_slices_sort_by_number() -> None:
    assert sorted(["a/10", "a/9", "b/1", "a/9b"], key=natural_key) == ["a/9", "a/9b", "a/10", "b/1"]


# ---------------------------------------------------------------------------------------------- many processes


def evaluate_part(rank: int, world_size: int, folder: str) -> None:
    """One of several processes. Slice 2 goes to all of them, as a sampler that pads may do."""
    if world_size > 1:
        init_method = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
        comm._LOCAL_PROCESS_GROUP = dist.group.WORLD
    evaluator = EMEvaluator("demo", output_dir=f"{folder}/out", save_rle=True)
    rng = np.random.default_rng(0)
    for index in range(5):
        truth = blocks((0, 0), (10, 10), (20, 20))
        noisy = [truth * (rng.random(truth.shape) < keep) for keep in rng.random(2)]
        if index % world_size == rank or index == 2:
            prompts = {"15%": [(12.5, 12.5)]}
            add(evaluator, f"demo/{index + 8}", truth, dict(zip(SHARES, noisy, strict=True)), prompts)
    results = evaluator.evaluate()
    assert bool(results) == (rank == 0)
    if world_size > 1:
        comm.synchronize()  # no process may hang up while another still works
        dist.destroy_process_group()
        os._exit(0)  # an interpreter that exits in the usual way is now and then aborted by one of gloo's threads


@pytest.mark.long
@pytest.mark.usefixtures("quick_launch")
def test_two_processes_evaluate_like_one(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    evaluate_part(0, 1, str(folders[0]))
    mp.spawn(evaluate_part, args=(2, str(folders[1])), nprocs=2)
    one, two = (
        {path.name: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} for folder in folders
    )
    assert len(one) == 2 + 2 + 3  # summary and slices, RLE of two shares, three pictures
    assert one == two


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (np.zeros((32, 31), np.float32), r"slice 7, 0% .*probability is \(32, 31\), labels are \(32, 32\)"),
        (np.full((32, 32), np.nan, np.float32), "slice 7, 0% .*values from nan to nan"),
        (np.full((32, 32), -9, np.float32), "slice 7, 0% .*from -9 to -9 are no probabilities"),
        (np.full((32, 32), 9, np.float32), "slice 7, 0% .*from 9 to 9 are no probabilities"),
    ],
)
def test_a_bad_prediction_is_named(predicted: np.ndarray, message: str) -> None:
    evaluator = EMEvaluator("demo")
    add(evaluator, "7", blocks((0, 0)), {BASELINE: predicted})
    with pytest.raises(ValueError, match=message):
        evaluator.evaluate()


def test_errors_do_not_wait_for_the_end() -> None:
    """Slices are measured in the background; a mistake shows up a few slices later, not after hours."""
    evaluator, bad = EMEvaluator("demo"), {BASELINE: np.zeros((3, 3), np.float32)}
    for index in range(MAX_PENDING):
        add(evaluator, str(index), blocks((0, 0)), bad)
    with pytest.raises(ValueError, match="slice 0"):
        add(evaluator, "next", blocks((0, 0)), bad)


def test_a_prompt_outside_the_slice_is_named() -> None:
    evaluator, truth = EMEvaluator("demo"), blocks((0, 0))
    add(evaluator, "7", truth, dict.fromkeys(SHARES, truth), {"15%": [(2.5, 32.0)]})
    with pytest.raises(ValueError, match=r"slice 7, 15%: point 0 \(x=2.5, y=32\) lies outside the image of 32 x 32 px"):
        evaluator.evaluate()


def test_slices_without_labels_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"slice 7: no \['instances'\] in the input"):
        EMEvaluator("demo").process([{"image_id": "7"}], [{"sem_seg": {}}])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown evaluation protocols \['papers'\]"):
        EMEvaluator("demo", protocols=["papers"])
    with pytest.raises(ValueError, match="save_rle needs an output_dir"):
        EMEvaluator("demo", save_rle=True)
