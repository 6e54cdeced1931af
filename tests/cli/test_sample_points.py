"""The command line: labels or a foreign file in, a file of sparse points out."""

from __future__ import annotations

from pathlib import Path

from prompt_das.volumes.point_files import read_points
from prompt_das_cli import main

import cv2
import numpy as np
import pytest


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of three slices with 8, 0 and 1 square instances, as a YAML description; its names are the folder's."""
    for z, count in enumerate((8, 0, 1)):
        labels = np.zeros((40, 50), np.uint8)
        for i in range(count):
            labels[10 * (i // 4) + 2 : 10 * (i // 4) + 7, 10 * (i % 4) + 2 : 10 * (i % 4) + 7] = i + 1
        for folder, image in (("labels", labels), ("images", labels * 20)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"s{z}.png"), image)
    path = tmp_path / "volume.yaml"
    path.write_text(f"name: {tmp_path.name}\nimages: images\nlabels: labels\nvoxel_size: [30, 8, 8]\n")
    return path


def test_points_are_drawn_from_labels(volume: Path, capsys: pytest.CaptureFixture) -> None:
    output = volume.parent / "points.json"
    main(["sample-points", "--volume", str(volume), "--output", str(output)])
    points = read_points(output)
    assert {z: len(p) for z, p in points.items()} == {0: 2, 1: 0, 2: 1}
    assert points[2].tolist() == [[4.5, 4.5]]
    assert (points[0] % 10 == 4.5).all()
    assert "3 points on 2 of 3 slices" in capsys.readouterr().out

    first = output.read_bytes()
    again = ["sample-points", "--volume", str(volume), "--output", str(output), "--overwrite"]
    main(again)
    assert output.read_bytes() == first
    main([*again, "--ratio", "1"])
    assert len(read_points(output)[0]) == 8


def test_a_foreign_file_is_converted_and_its_points_are_checked(volume: Path, capsys: pytest.CaptureFixture) -> None:
    """One of the two points of the part that is asked for lies on an instance."""
    source, output = volume.parent / "napari.csv", volume.parent / "points.json"
    source.write_text("axis-0,axis-1,axis-2\n0,4,4\n0,0,0\n2,4,4\n")
    dataset = f"{volume.parent.name}[0:2]"
    main(
        ["sample-points", "--volume", str(volume), "--dataset", dataset, "--from", str(source), "--output", str(output)]
    )
    points = read_points(output)
    assert list(points) == [0]
    assert points[0].tolist() == [[4.5, 4.5], [0.5, 0.5]]
    assert "50.0% of them lie on a labeled instance" in capsys.readouterr().out


def test_neither_what_is_there_nor_what_is_read_is_written_over(volume: Path) -> None:
    clicks = volume.parent / "clicks.csv"
    clicks.write_text("z,y,x\n0,4,4\n")
    command = ["sample-points", "--volume", str(volume), "--from", str(clicks)]
    for victim in (clicks, volume, volume.parent / "images" / "points.json"):
        with pytest.raises(SystemExit, match="would be written over the input"):
            main([*command, "--overwrite", "--output", str(victim)])
    main([*command, "--output", str(volume.parent / "points.json")])
    with pytest.raises(SystemExit, match="exists already; replace it with --overwrite"):
        main([*command, "--output", str(volume.parent / "points.json")])
    assert clicks.read_text() == "z,y,x\n0,4,4\n"


def test_errors_are_one_line(volume: Path) -> None:
    output, outside = volume.parent / "points.json", volume.parent / "outside.csv"
    outside.write_text("z,y,x\n0,45,4\n")
    common = ["sample-points", "--volume", str(volume), "--output", str(output)]
    with pytest.raises(SystemExit, match=r"outside\.csv.*y=45\.5"):
        main([*common, "--from", str(outside)])
    with pytest.raises(SystemExit, match="ratio of sparse points is 15"):
        main([*common, "--ratio", "15"])
    with pytest.raises(SystemExit, match="lucci_train"):
        main(["sample-points", "--dataset", "lucci_train", "--output", str(output)])
    assert not output.exists()


def test_a_volume_with_splits_needs_a_choice(volume: Path) -> None:
    split = volume.with_name("split.yaml")
    name = f"{volume.parent.name}_s"
    split.write_text(f"name: {name}\nimages: images\nlabels: labels\nsplits: {{train: [0, 2], val: [2, 3]}}\n")
    output = volume.parent / "points.json"
    with pytest.raises(SystemExit, match=f"{name}_train, {name}_val; choose one with --dataset"):
        main(["sample-points", "--volume", str(split), "--output", str(output)])
    main(["sample-points", "--volume", str(split), "--dataset", f"{name}_val", "--output", str(output)])
    assert list(read_points(output)) == [2]  # the index in the volume, not in the split


def test_an_unlabeled_volume_needs_a_file(volume: Path) -> None:
    bare = volume.with_name("bare.yaml")
    bare.write_text(f"name: {volume.parent.name}_bare\nimages: images\n")
    output = volume.parent / "points.json"
    with pytest.raises(SystemExit, match="no labels to draw points from"):
        main(["sample-points", "--volume", str(bare), "--output", str(output)])
    source = volume.with_name("points.csv")
    source.write_text("z,y,x\n1,2,3\n")
    main(["sample-points", "--volume", str(bare), "--from", str(source), "--output", str(output)])
    assert read_points(output)[1].tolist() == [[3.5, 2.5]]
