"""Places to click next: the least certain ones, apart from each other and from what is known."""

from __future__ import annotations

import csv
from pathlib import Path

from prompt_das.adaptation.proposals import (
    NEAR_SLICES,
    Proposal,
    choose,
    doubtful_regions,
    propose_in_slice,
    write_proposals,
)
from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.modeling import PromptDAS
from prompt_das.volumes.point_files import read_points
from prompt_das_cli import main

import numpy as np
import pytest
import tifffile
from detectron2.config import CfgNode


def at(z: int, x: float, y: float, score: float = 0.5) -> Proposal:
    return Proposal(z, x, y, score, "")


def test_regions_in_doubt_score_by_the_wrong_pixels_that_are_expected() -> None:
    """A sure object with a rim in doubt, a region in doubt inside of another, a faint one apart, and a faint speck."""
    probability = np.full((60, 60), 0.05, np.float32)
    probability[2:14, 2:14] = 0.5  # the rim, two pixels wide
    probability[4:12, 4:12] = 0.95
    probability[20:40, 20:40] = 0.95
    probability[24:33, 26:35] = 0.6  # its middle is pixel (28, 30)
    probability[45:52, 3:10] = 0.25
    probability[50:53, 50:53] = 0.5
    places = {(p.x, p.y): p for p in doubtful_regions(probability, 5, rim=2.0)}
    assert set(places) == {(30.5, 28.5), (6.5, 48.5)}
    # More than two pixels from what is sure are all but the two outermost rings: 5 x 5 and 3 x 3 pixels.
    assert places[30.5, 28.5].score == pytest.approx(0.4 * 25)
    assert places[6.5, 48.5].score == pytest.approx(0.25 * 9)
    assert places[30.5, 28.5].reason == "in doubt, probability 0.60"
    assert {p.z for p in places.values()} == {5}
    assert doubtful_regions(np.full((9, 9), 0.1, np.float32), 0, rim=2.0) == []


def test_a_speck_is_not_worth_a_click() -> None:
    """Half of the pixels are probably wrong: 40 in a region of 9 x 9, and 8 in one of 4 x 4."""
    probability = np.full((30, 60), 0.05, np.float32)
    probability[5:14, 5:14] = 0.5
    probability[5:9, 40:44] = 0.5
    (place,) = propose_in_slice(probability, 0, 9, sigma=1.0, taken={})
    assert (place.x, place.y) == (9.5, 9.5)
    assert place.score == pytest.approx(0.5 * 81)


def test_the_most_uncertain_come_first_and_none_is_near_another() -> None:
    chosen = choose([at(0, 5, 5, 0.2), at(0, 7, 5, 0.9), at(0, 30, 5, 0.4)], 2, radius=5, taken={})
    assert chosen == [at(0, 7, 5, 0.9), at(0, 30, 5, 0.4)]


def test_none_is_near_a_point_that_is_there_already_nor_in_its_neighbors() -> None:
    taken = {4: np.array([[5.0, 5.0, 0.0]])}
    candidates = [at(4, 8, 5), at(4 + NEAR_SLICES, 5, 5), at(4 + NEAR_SLICES + 1, 5, 5), at(4, 10, 5)]
    assert choose(candidates, 9, radius=5, taken=taken) == [candidates[3], candidates[2]]


def test_they_are_spread_over_the_slices_as_far_as_there_are_some() -> None:
    first = [at(0, 20 * i, 5, 0.9 - i / 100) for i in range(4)]
    assert [p.z for p in choose([*first, at(9, 5, 5, 0.1)], 3, radius=5, taken={}, per_slice=2)] == [0, 0, 9]
    assert len(choose(first, 3, radius=5, taken={}, per_slice=2)) == 3


def test_the_file_is_one_of_points(tmp_path: Path) -> None:
    write_proposals(tmp_path / "next.csv", [at(3, 7.5, 2.5, 0.9), at(1, 10.5, 0.5, 0.2)])
    points = read_points(tmp_path / "next.csv")
    assert {z: p.tolist() for z, p in points.items()} == {3: [[7.5, 2.5]], 1: [[10.5, 0.5]]}
    with open(tmp_path / "next.csv") as file:
        assert [row["score"] for row in csv.DictReader(file)] == ["0.9", "0.2"]


@pytest.mark.usefixtures("quiet_logging")
def test_from_weights_and_a_volume_to_proposals(
    tiny_cfg: CfgNode, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    export_weights(tmp_path / "tiny.safetensors", PromptDAS(tiny_cfg).state_dict(), tiny_cfg.dump())
    tifffile.imwrite(tmp_path / "scan.tif", rng.integers(0, 256, (9, 70, 90), np.uint8), photometric="minisblack")
    (tmp_path / "clicks.csv").write_text("z,y,x\n4,35,45\n")
    files = {"weights": "tiny.safetensors", "input": "scan.tif", "points": "clicks.csv", "output": "next.csv"}
    command = ["propose", *(word for key, name in files.items() for word in (f"--{key}", str(tmp_path / name)))]
    main([*command, "--number", "5", "--slices", "3"])
    places = [(z, *point) for z, points in read_points(tmp_path / "next.csv").items() for point in points]
    assert f"{len(places)} places" in capsys.readouterr().out
    assert 0 < len(places) <= 5
    assert {z for z, *_ in places} <= {0, 4, 8}
    radius = 3 * tiny_cfg.MODEL.CENTER_HEAD.SIGMA
    assert all(abs(z - 4) > NEAR_SLICES or np.hypot(x - 45.5, y - 35.5) >= radius for z, x, y in places)
    with pytest.raises(SystemExit, match="replace it with --overwrite"):
        main(command)
    with pytest.raises(SystemExit, match="would be written over the input"):
        main([*command, "--output", str(tmp_path / "clicks.csv"), "--overwrite"])
