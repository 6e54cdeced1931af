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
from prompt_das.data.sparse_points import get_sparse_points, require_same_source, sample_dataset_points
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
    for dataset_dict in get_slices((TARGET,)):
        instances = connected_components(read_labels(dataset_dict)).max()
        assert len(drawn[dataset_dict["slice"]]) == math.ceil(0.3 * instances)
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


# ---- drawing them from labels


def assert_same(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for z in a:
        np.testing.assert_array_equal(a[z], b[z])


def read_row(dataset_dict: dict) -> np.ndarray:
    """Labels with dataset_dict["n"] single-pixel instances of 3-D ids, in a row."""
    labels = np.zeros((3, 100), np.uint32)
    labels[1, : 2 * dataset_dict["n"] : 2] = 70000 + np.arange(dataset_dict["n"])
    return labels


def test_sampling_takes_a_ratio_of_every_slice() -> None:
    dicts = [{"slice": z, "n": n} for z, n in [(4, 20), (5, 0), (6, 21), (9, 1)]]
    points = sample_dataset_points(dicts, 0.15, 0, read_row)
    assert {z: len(p) for z, p in points.items()} == {4: 3, 5: 0, 6: 4, 9: 1}
    assert all((p[:, 1] == 1.5).all() and (p[:, 0] % 2 == 0.5).all() for p in points.values())


def test_sampling_is_seeded_by_slice() -> None:
    dicts = [{"slice": z, "n": 40} for z in range(4)]
    points = sample_dataset_points(dicts, 0.15, 1, read_row)
    assert_same(sample_dataset_points(dicts, 0.15, 1, read_row), points)
    assert_same(sample_dataset_points(dicts[2:], 0.15, 1, read_row), {z: points[z] for z in (2, 3)})
    assert not np.array_equal(points[0], points[1])
    assert not np.array_equal(sample_dataset_points(dicts[:1], 0.15, 2, read_row)[0], points[0])


def test_touching_instances_are_one_component() -> None:
    labels = np.zeros((5, 5), np.int32)
    labels[2, 1], labels[2, 2:4] = 5, 6
    points = sample_dataset_points([{"slice": 0}], 1.0, 0, lambda _: labels)
    assert points[0].tolist() == [[2.5, 2.5]]


def test_two_volumes_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="slice 3 comes twice"):
        sample_dataset_points([{"slice": 3, "n": 1}] * 2, 0.15, 0, read_row)
