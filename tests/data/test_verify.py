"""What a long run would stumble over is found before it."""

from __future__ import annotations

from pathlib import Path

from prompt_das.data.datasets import register_em_volume
from prompt_das.data.verify import ERROR, WARNING, Problem, check_dataset, worst
from prompt_das.volumes.point_files import write_points

import cv2
import h5py
import numpy as np
import pytest
import zarr

pytestmark = pytest.mark.usefixtures("forget_new_names")
SIZE = 60
SQUARES = ((10, 10), (10, 40), (40, 25))  # corners of instances of 12 x 12 pixels


@pytest.fixture
def volume(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with four good slices and their instance ids."""
    for z in range(4):
        labels = np.zeros((SIZE, SIZE), np.uint16)
        for i, (y, x) in enumerate(SQUARES):
            labels[y : y + 12, x : x + 12] = 7 * i + z + 1
        for folder, array in (("im", rng.integers(50, 200, (SIZE, SIZE), dtype=np.uint8)), ("seg", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{z}.png"), array)
    return tmp_path


def check(volume: Path, points: Path | None = None, **spec: object) -> list[Problem]:
    register_em_volume("checked", volume / "im", **{"labels": volume / "seg", **spec})
    return check_dataset("checked", points).problems


def rewrite(path: Path, change: object) -> None:
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), change(array))  # type: ignore[operator]


def test_good_data_has_no_problems_and_is_described(volume: Path) -> None:
    points = volume / "points.json"
    write_points(points, {0: np.array([[15.0, 15.0], [45.5, 15.5]]), 2: np.array([[30.0, 45.0]])})
    register_em_volume("checked", volume / "im", labels=volume / "seg", points=points)
    report = check_dataset("checked")
    assert report.problems == []
    facts = dict(report.facts)
    assert facts["slices"] == "4 of 4, 60 x 60, uint8"
    assert facts["instances a slice"] == "3 (median), 3 ... 3"
    assert facts["covered by instances"] == "12.0%"
    assert facts["points"] == f"3 on 2 slices, {points}"


def test_all_problems_are_listed_at_once_errors_first(volume: Path) -> None:
    (volume / "im" / "0.png").write_bytes(b"nothing")
    cv2.imwrite(str(volume / "im" / "1.png"), np.full((SIZE, SIZE), 90, np.uint8))
    rewrite(volume / "seg" / "3.png", lambda labels: labels[:10])
    problems = check(volume)
    assert [problem.severity for problem in problems] == [ERROR, ERROR, WARNING]
    assert "checked/0: " in problems[0].text
    assert "0.png (slice 0)" in problems[0].text
    assert "labels: " in problems[1].text
    assert "3.png (slice 3) is 10 x 60" in problems[1].text
    assert problems[2].text.startswith("checked/1: shows hardly anything")


@pytest.mark.parametrize(
    ("change", "severity", "text"),
    [
        (lambda labels: np.uint16(labels > 0), ERROR, "single id for all its instances: set label_type to 'semantic'"),
        (lambda labels: np.zeros_like(labels), ERROR, "not a single instance in any slice"),
        (lambda labels: labels + np.uint16(1), WARNING, "the labels cover 100% of the slice; is the background 0?"),
        (lambda labels: cv2.rectangle(labels, (55, 55), (57, 57), 99, -1), WARNING, "1 specks of at most 15 px"),
    ],
)
def test_odd_labels(volume: Path, change: object, severity: str, text: str) -> None:
    for path in (volume / "seg").iterdir():
        rewrite(path, change)
    assert any(problem.severity == severity and text in problem.text for problem in check(volume))


def test_a_mask_that_says_that_it_is_one_is_no_problem(volume: Path) -> None:
    for path in (volume / "seg").iterdir():
        rewrite(path, lambda labels: np.uint8(labels > 0))
    assert check(volume, label_type="semantic") == []


def test_slices_without_instances(volume: Path) -> None:
    rewrite(volume / "seg" / "2.png", np.zeros_like)
    assert check(volume) == [Problem(WARNING, "checked/2: no instance in the labels")]


def test_the_same_slice_twice(volume: Path) -> None:
    (volume / "im" / "3.png").write_bytes((volume / "im" / "1.png").read_bytes())
    assert check(volume) == [Problem(WARNING, "checked/3: the same image as checked/1")]


def test_an_intensity_range_that_cuts_off(volume: Path) -> None:
    (problem, *_) = check(volume, intensity_range=(50, 100))
    assert "of its pixels are outside of the intensity range (50.0, 100.0)" in problem.text


def test_points(volume: Path) -> None:
    points = volume / "clicks.csv"
    rows = ["0,15,15", "0,15,15.2", "1,70,15", "1,3,3", "2,15,15", "9,15,15"]
    points.write_text("z,y,x\n" + "\n".join(rows))
    texts = [problem.text for problem in check(volume, points)]
    # The folder has names, so that a slice that is not there is found while reading.
    assert len(texts) == 1
    assert "slice 9, but the volume has slices 0 to 3" in texts[0]
    points.write_text("z,y,x\n" + "\n".join(rows[:-1]))
    problems = check_dataset("checked", points).problems
    assert [problem.severity for problem in problems] == [ERROR, WARNING, WARNING]
    assert "slice 1: 1 of 2 points are outside of the image, (x=15.5, y=70.5)" in problems[0].text
    assert "slice 0: 1 points are there twice" in problems[1].text
    assert "checked/1: 1 of 1 points lie on no instance" in problems[2].text


def test_points_of_another_volume(volume: Path) -> None:
    write_points(volume / "points.json", {})
    (problem,) = check(volume, volume / "points.json")
    assert "no point lies on a slice of this data set" in problem.text


def test_chunks_that_were_never_written(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(50, 200, (3, SIZE, SIZE), dtype=np.uint8)
    array = zarr.open_array(str(tmp_path / "a.zarr"), mode="w", shape=(4, SIZE, SIZE), chunks=(1, 30, 60), dtype="u1")
    array[:3] = values
    register_em_volume("chunks", tmp_path / "a.zarr")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (4, SIZE, SIZE), "u1", chunks=(1, 30, 60))[:3] = values
        file.create_dataset("flat", data=values)
    register_em_volume("h5", tmp_path / "a.h5", images_dataset="raw")
    register_em_volume("flat", tmp_path / "a.h5", images_dataset="flat")
    for name in ("chunks", "h5"):
        hollow, never = check_dataset(name).problems
        assert "0003: shows hardly anything" in hollow.text
        assert "2 of 8 chunks were never written and read as zeros" in never.text
    assert check_dataset("flat").problems == []


def test_a_data_set_that_cannot_be_opened(tmp_path: Path) -> None:
    register_em_volume("gone", tmp_path / "gone.tif")
    (problem,) = check_dataset("gone").problems
    assert problem.severity == ERROR
    assert "gone.tif does not exist" in problem.text
    (problem,) = check_dataset("nobody_registered_this").problems
    assert "unknown data set" in problem.text


def test_the_first_of_each_kind_are_shown() -> None:
    problems = [Problem(ERROR, str(i)) for i in range(4)] + [Problem(WARNING, str(i)) for i in range(3)]
    assert worst(problems, 2) == [*problems[:2], *problems[4:6]]
