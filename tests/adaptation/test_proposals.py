"""Places to click next: the least certain ones, apart from each other and from what is known."""

from __future__ import annotations

import csv
from pathlib import Path

from prompt_das.adaptation.proposals import NEAR_SLICES, Proposal, choose, uncertain_objects, write_proposals
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


def test_objects_near_the_decision_come_first() -> None:
    """Four objects of other highest probabilities, and a speck; a rim of lower probability is none of its own."""
    probability = np.full((40, 40), 0.05, np.float32)
    probability[1:7, 1:7] = 0.6  # the rim of the first object
    for (y, x), highest in {(2, 2): 0.9, (20, 2): 0.6, (2, 20): 0.99, (20, 20): 1.0}.items():
        probability[y : y + 5, x : x + 5] = highest
    probability[35:37, 35:37] = 0.9
    places = {(p.x, p.y): p for p in uncertain_objects(probability, 5, confidence=0.9)}
    assert set(places) == {(4.5, 4.5), (4.5, 22.5), (22.5, 4.5), (22.5, 22.5)}
    assert places[4.5, 4.5].score == pytest.approx(1)
    assert places[4.5, 22.5].score == pytest.approx(1 / (1 + np.log(9 / 1.5)))
    assert places[22.5, 4.5].score == pytest.approx(1 / (1 + np.log(99 / 9)), rel=1e-4)
    assert 0 < places[22.5, 22.5].score < places[22.5, 4.5].score
    assert places[4.5, 22.5].reason == "object, highest probability 0.60"
    assert {p.z for p in places.values()} == {5}


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
        assert [row["score"] for row in csv.DictReader(file)] == ["0.900", "0.200"]


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
