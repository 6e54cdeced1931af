"""Where the sparse points of a target volume come from, and which are refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from prompt_das.data.build import get_slices
from prompt_das.data.datasets import register_em_volume
from prompt_das.data.slices import read_labels
from prompt_das.data.sparse_points import get_sparse_points, require_same_source
from prompt_das.ops.connected_components import connected_components
from prompt_das.volumes.point_files import write_points
from prompt_das.volumes.volume import VolumeError

import numpy as np
import pytest
import tifffile
from detectron2.config import CfgNode

SOURCE, TARGET = "synthetic_source_train", "synthetic_target_train"


def test_labels_that_cannot_be_read_give_no_sparse_points(cfg: CfgNode, spoil: Callable[[str], Path]) -> None:
    path = spoil("target/mito-train-v2/seg0001.tif")
    with pytest.raises(VolumeError, match=re.escape(str(path))):
        get_sparse_points(cfg)
    cfg.DATALOADER.MAX_CORRUPT_SLICES = 1
    assert sorted(get_sparse_points(cfg)[TARGET]) == [0, 2, 3]


def test_points_are_drawn_once_and_kept(cfg: CfgNode) -> None:
    cfg.DATASETS.SPARSE_POINTS.RATIO, cfg.DATASETS.SPARSE_POINTS.SEED = 0.3, 4
    drawn = get_sparse_points(cfg)[TARGET]
    kept = Path(cfg.OUTPUT_DIR) / f"sparse_points_{TARGET}.json"
    content = json.loads(kept.read_text())
    assert (content["dataset"], content["ratio"], content["seed"]) == (TARGET, 0.3, 4)
    for d in get_slices((TARGET,)):
        instances = connected_components(read_labels(d)).max()
        assert len(drawn[d["slice"]]) == math.ceil(0.3 * instances)
        assert instances
    kept.write_text(kept.read_text().replace("[[", "[[0.5, 1.5], [", 1))
    again = get_sparse_points(cfg)[TARGET]
    assert [0.5, 1.5] in np.concatenate(list(again.values())).tolist()


def test_a_file_of_points_goes_first(cfg: CfgNode, tmp_path: Path) -> None:
    write_points(tmp_path / "mine.json", {1: np.array([[3.5, 4.5]], np.float32)})
    cfg.DATASETS.SPARSE_POINTS.FILE = str(tmp_path / "mine.json")
    assert {z: p.tolist() for z, p in get_sparse_points(cfg)[TARGET].items()} == {1: [[3.5, 4.5]]}
    assert not list(tmp_path.glob("sparse_points_*"))


def test_a_file_of_points_is_of_one_volume(cfg: CfgNode, tmp_path: Path) -> None:
    write_points(tmp_path / "mine.json", {1: np.array([[3.5, 4.5]], np.float32)})
    cfg.DATASETS.SPARSE_POINTS.FILE = str(tmp_path / "mine.json")
    cfg.DATASETS.TARGET = (TARGET, SOURCE)
    with pytest.raises(ValueError, match=r"mine\.json is of one volume, but DATASETS.TARGET names several"):
        get_sparse_points(cfg)


def test_points_may_be_registered_with_their_volume(cfg: CfgNode, unlabeled: str) -> None:
    cfg.DATASETS.TARGET = (unlabeled,)
    assert get_sparse_points(cfg)[unlabeled][0].tolist() == [[7.5, 8.5]]


def test_a_volume_with_neither_points_nor_labels_is_refused(cfg: CfgNode, unlabeled: str) -> None:
    cfg.DATASETS.TARGET = (f"{unlabeled}_bare",)
    with pytest.raises(ValueError, match=r"_bare has neither points nor labels .*SPARSE_POINTS.FILE, or RATIO 0"):
        get_sparse_points(cfg)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({0: [[100.5, 3.5]]}, r"mine\.json, slice 0: point 0 \(x=100\.5, y=3\.5\) lies outside the image of 96 x 96"),
        ({9: [[3.5, 3.5]]}, r"mine\.json: slice 9, but the volume has slices 0 to 5"),
    ],
)
def test_points_of_another_volume_are_refused(
    cfg: CfgNode, tmp_path: Path, points: dict[int, list], message: str
) -> None:
    write_points(tmp_path / "mine.json", {z: np.array(p, np.float32) for z, p in points.items()})
    cfg.DATASETS.SPARSE_POINTS.FILE = str(tmp_path / "mine.json")
    with pytest.raises(ValueError, match=message):
        get_sparse_points(cfg)


def test_points_beyond_the_last_slice_of_one_file_are_refused(
    cfg: CfgNode, tmp_path: Path, forget_new_names: None
) -> None:
    """A multi-page TIFF has no file names of slices to count."""
    tifffile.imwrite(tmp_path / "volume.tif", np.zeros((3, 40, 50), np.uint8))
    write_points(tmp_path / "mine.json", {3: np.array([[3.5, 3.5]], np.float32)})
    register_em_volume("mine", tmp_path / "volume.tif", points=tmp_path / "mine.json")
    cfg.DATASETS.TARGET = ("mine",)
    with pytest.raises(ValueError, match=r"mine\.json: slice 3, but the volume has slices 0 to 2"):
        get_sparse_points(cfg)


def test_sparse_points_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse_points_x.json"
    write_points(path, {}, dataset="x", ratio=0.15, seed=0)
    require_same_source(path, dataset="x", ratio=0.15, seed=0)
    with pytest.raises(ValueError, match=r"sparse_points_x\.json holds .*ratio 0\.15, not 0\.5.*remove the file"):
        require_same_source(path, dataset="x", ratio=0.5, seed=0)
