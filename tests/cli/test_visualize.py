"""The pictures of the data: which are made, and that points are drawn where the mask is."""

from __future__ import annotations

from pathlib import Path

from prompt_das.utils.visualization import ESTIMATE, PROMPT, TRUTH
from prompt_das_cli import main

import cv2
import numpy as np
import pytest

CROP = ["INPUT.CROP_SIZE", "32"]


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, Path]:
    """A labeled volume of two slices with one instance each, and the same without labels; both as YAML."""
    labels = np.zeros((48, 48), np.uint8)
    labels[10:30, 10:30] = 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for z in range(2):
            cv2.imwrite(str(tmp_path / folder / f"s{z}.png"), labels + (folder == "images") * 100)
    labeled, bare = tmp_path / "labeled.yaml", tmp_path / "bare.yaml"
    labeled.write_text(f"name: {tmp_path.name}\nimages: images\nlabels: labels\n")
    bare.write_text(f"name: {tmp_path.name}_bare\nimages: images\n")
    return labeled, bare


def colors(path: Path) -> set[tuple[int, ...]]:
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(np.int32)
    packed = np.unique(picture @ (1 << 16, 1 << 8, 1))  # many times faster than unique rows
    return {(color >> 16, color >> 8 & 255, color & 255) for color in packed.tolist()}


def test_a_labeled_volume_is_shown_as_a_source(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    main(["visualize", "--volume", str(volumes[0]), "--output", str(output), *CROP])
    name = tmp_path.name
    assert sorted(p.name for p in output.glob("*")) == ["crops_source.png", f"{name}_s0.png", f"{name}_s1.png"]
    assert {TRUTH, PROMPT} <= colors(output / f"{name}_s0.png")
    assert {TRUTH, PROMPT, ESTIMATE} <= colors(output / "crops_source.png")


def test_an_unlabeled_volume_is_shown_as_a_target(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    output, points = tmp_path / "pictures", tmp_path / "points.csv"
    main(["visualize", "--volume", str(volumes[1]), "--output", str(output), "--slices", "1", "--crops", "1", *CROP])
    assert PROMPT not in colors(output / f"{tmp_path.name}_bare_s0.png")
    points.write_text("z,y,x\n0,20,20\n1,20,20\n")
    main(["visualize", "--volume", str(volumes[1]), "--points", str(points), "--output", str(output), *CROP])
    assert PROMPT in colors(output / f"{tmp_path.name}_bare_s0.png")
    assert PROMPT in colors(output / "crops_target.png")
    assert not (output / "crops_source.png").exists()


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nothing to show"):
        main(["visualize", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="lucci_train"):
        main(["visualize", "--dataset", "lucci_train", "--output", str(tmp_path)])


def test_source_and_target_are_shown_side_by_side_at_one_physical_scale(
    tmp_path: Path, forget_new_names: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slice of 8 nm a pixel and the same of 4 nm have equally many pixels of the network, and titles above them."""
    for name, side, nm in (("coarse", 64, 8), ("fine", 128, 4)):
        labels = np.zeros((side, side), np.uint8)
        labels[side // 4 : side // 2, side // 4 : side // 2] = 1
        for kind in ("images", "labels"):
            cv2.imwrite(str(tmp_path / f"{name}_{kind}.png"), labels * (100 if kind == "images" else 1))
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}_shown\nimages: {name}_images.png\nlabels: {name}_labels.png\nvoxel_size: [30, {nm}, {nm}]\n"
        )
    output, volumes = tmp_path / "pictures", tuple(str(tmp_path / f"{name}.yaml") for name in ("coarse", "fine"))
    options = [*CROP, "INPUT.PIXEL_SIZE", "16", "DATASETS.VOLUMES", str(volumes), "DATASETS.TRAIN", "('coarse_shown',)"]
    main(["visualize", "--output", str(output), "--crops", "2", *options, "DATASETS.TARGET", "('fine_shown',)"])
    pictures = [cv2.imread(str(path)) for path in sorted(output.glob("*_shown_*.png"))]
    assert len(pictures) == 2
    assert pictures[0].shape == pictures[1].shape
    assert {TRUTH, PROMPT} <= colors(output / "source_and_target.png")


def test_a_diameter_takes_the_place_of_the_voxel_size(
    volumes: tuple[Path, Path], tmp_path: Path, forget_new_names: None
) -> None:
    output = tmp_path / "pictures"
    words = ["visualize", "--volume", str(volumes[0]), "--output", str(output), "--crops", "0"]
    options = [*CROP, "INPUT.PIXEL_SIZE", "16"]
    with pytest.raises(SystemExit, match="its voxel size is not known"):
        main([*words, *options])
    main([*words, "--diameter", "29", *options])
    half = cv2.imread(str(output / f"{tmp_path.name}_s0.png"))
    main([*words, "--diameter", "14.5", *options])
    whole = cv2.imread(str(output / f"{tmp_path.name}_s0.png"))
    assert np.subtract(whole.shape, half.shape).tolist() == [24, 24, 0]  # 48 x 48 and 24 x 24 pixels
