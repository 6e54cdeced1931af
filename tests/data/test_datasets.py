"""Data sets: names, slices and their pixels, and what is said when files are missing or do not fit together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import (
    ensure_registered,
    find_volume,
    register_em_volume,
    register_slices,
    register_volumes_from_yaml,
)
from prompt_das.data.slices import open_image_volume, read_image, read_labels
from prompt_das.volumes.volume import VolumeError

import cv2
import numpy as np
import pytest
import tifffile
from detectron2.data import DatasetCatalog, MetadataCatalog

BUILTIN = {
    *(f"mitoem_{species}_{split}" for species in ("rat", "human") for split in ("train", "val")),
    *(f"synthetic_{domain}_{split}" for domain in ("source", "target") for split in ("train", "val")),
    "vnc_train", "lucchi_train", "lucchi_test",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("forget_new_names")


def gray(z: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width), 10 * z, np.uint8)


def ids(z: int, height: int = 20, width: int = 30) -> np.ndarray:
    labels = np.zeros((height, width), np.uint16)
    labels[2:6, 2:6], labels[8:12, 10:20] = z + 1, 300
    return labels


def write_slices(folder: Path, numbers: range, name: str, make: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        array = make(number)  # type: ignore[operator]
        path = folder / name.format(number)
        if path.suffix == ".tif":
            tifffile.imwrite(path, array)
        else:
            cv2.imwrite(str(path), array)
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> tuple[Path, Path]:
    """Ten slices s000.png ... s009.png with labels."""
    return (
        write_slices(tmp_path / "images", range(10), "s{:03d}.png", gray),
        write_slices(tmp_path / "labels", range(10), "s{:03d}.png", ids),
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


# ---- a user's own volume


def test_a_volume_becomes_dicts_of_slices(volume: tuple[Path, Path]) -> None:
    register_em_volume("mine", *volume, voxel_size=(30, 8, 8), slices=(2, 5))
    entries = DatasetCatalog.get("mine")
    assert [entry["slice"] for entry in entries] == [2, 3, 4]
    assert [entry["image_id"] for entry in entries] == ["mine/s002", "mine/s003", "mine/s004"]
    assert (entries[0]["height"], entries[0]["width"], entries[0]["dataset_name"]) == (20, 30, "mine")
    assert open_image_volume(entries[0]).slice_names == [f"s{z:03d}.png" for z in range(10)]
    meta = MetadataCatalog.get("mine")
    assert (meta.evaluator_type, meta.voxel_size, meta.thing_classes) == ("em", (30, 8, 8), ["mitochondrion"])
    assert (meta.images, meta.labels, meta.points) == (str(volume[0]), str(volume[1]), None)


def test_pixels_of_a_slice_and_of_a_box(volume: tuple[Path, Path]) -> None:
    register_em_volume("mine", *volume)
    entry = DatasetCatalog.get("mine")[7]
    image, labels = read_image(entry), read_labels(entry)
    assert (image.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(image, gray(7))
    np.testing.assert_array_equal(labels, ids(7))
    np.testing.assert_array_equal(read_labels(entry, (3, 1, 9, 15)), ids(7)[3:9, 1:15])
    assert read_image(entry, (3, 1, 9, 15)).shape == (6, 14)


def test_registering_reads_nothing(tmp_path: Path) -> None:
    register_em_volume("later", tmp_path / "not there yet")
    with pytest.raises(FileNotFoundError, match=r"later.*not there yet"):
        DatasetCatalog.get("later")


def test_a_volume_without_labels(volume: tuple[Path, Path]) -> None:
    register_em_volume("unlabeled", volume[0])
    entry = DatasetCatalog.get("unlabeled")[0]
    assert entry["label_file_name"] is None
    with pytest.raises(ValueError, match="'unlabeled' has no labels"):
        read_labels(entry)


def test_a_name_means_one_volume(volume: tuple[Path, Path]) -> None:
    register_em_volume("mine", *volume)
    register_em_volume("mine", *volume)  # again, as in a notebook
    with pytest.raises(ValueError, match="already registered"):
        register_em_volume("mine", volume[0])
    DatasetCatalog.register("coco_like", list)
    with pytest.raises(ValueError, match="already the name"):
        register_em_volume("coco_like", *volume)


def test_sixteen_bits_get_one_range_for_all_parts_of_the_volume(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(500, 1500, (6, 40, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "volume.tif", array)
    register_em_volume("first", tmp_path / "volume.tif", slices=(0, 1))
    register_em_volume("last", tmp_path / "volume.tif", slices=(5, 6))
    register_em_volume("given", tmp_path / "volume.tif", intensity_range=(0, 2000))
    first, last, given = (DatasetCatalog.get(name)[0] for name in ("first", "last", "given"))
    assert first["intensity_range"] == last["intensity_range"]
    assert 0 <= read_image(last).min() < 2
    assert 253 < read_image(last).max() <= 255
    np.testing.assert_allclose(read_image(given), array[0] * (255 / 2000), rtol=1e-5)


def test_gray_that_is_stored_as_color(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "rgb.png"), np.repeat(gray(9)[..., None], 3, axis=2))
    register_em_volume("rgb", tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_image(DatasetCatalog.get("rgb")[0]), gray(9))


# ---- kinds of labels


def labels_of(tmp_path: Path, array: np.ndarray, **options: str) -> np.ndarray:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros(array.shape[:2], np.uint8))
    tifffile.imwrite(tmp_path / "labels.tif", array)
    register_em_volume("kind", tmp_path / "image.png", tmp_path / "labels.tif", **options)
    return read_labels(DatasetCatalog.get("kind")[0])


def test_rgb_coded_labels(tmp_path: Path) -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    array[2, 3] = (1, 2, 3)
    labels = labels_of(tmp_path, array)
    assert labels[2, 3] == 1 * 65536 + 2 * 256 + 3
    assert np.count_nonzero(labels) == 1


def test_a_mask_becomes_its_components(tmp_path: Path) -> None:
    array = np.zeros((8, 8), np.uint8)
    array[1:3, 1:3] = array[5:7, 5:7] = 255
    labels = labels_of(tmp_path, array, label_type="semantic")
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert labels[1, 1] != labels[5, 5]


def test_a_mask_that_is_taken_for_ids_gets_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels_of(tmp_path, np.pad(np.full((2, 2), 255, np.uint8), 3))
    assert "holds the single id 255; if that is a mask of all instances, set label_type" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "highest", "expected"),
    [
        ("uint8", 255, "int32"),
        ("uint32", 2**31 - 1, "int32"),
        ("uint32", 2**32 - 1, "int64"),
        ("int64", 2**40, "int64"),
        ("uint64", 7, "int32"),
    ],
)
def test_ids_of_any_size_keep_their_value(tmp_path: Path, dtype: str, highest: int, expected: str) -> None:
    array = np.zeros((8, 8), dtype)
    array[0, 0] = highest
    labels = labels_of(tmp_path, array)
    assert labels.dtype == expected
    assert labels[0, 0] == highest


def test_labels_that_are_not_ids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels\.tif, slice 0: labels must be integer ids, not float32"):
        labels_of(tmp_path, np.zeros((8, 8), np.float32))


def test_negative_ids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels\.tif, slice 0: ids .* found -1\.\.0"):
        labels_of(tmp_path, np.pad(np.full((1, 1), -1, np.int16), 3))


# ---- damaged slices


def test_a_damaged_slice_is_an_error_when_it_is_read(volume: tuple[Path, Path]) -> None:
    for folder in volume:
        (folder / "s005.png").write_bytes((folder / "s005.png").read_bytes()[:-9])
    register_em_volume("mine", *volume)
    entries = DatasetCatalog.get("mine")
    for read in (read_image, read_labels):
        with pytest.raises(VolumeError, match=r"s005\.png \(slice 5\) cannot be read"):
            read(entries[5])
        assert read(entries[6]).shape == (20, 30)


def test_an_image_with_nan(tmp_path: Path) -> None:
    array = np.pad(np.full((1, 2), np.nan, np.float32), ((0, 7), (0, 6)))
    stack = np.stack([np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32), array])
    tifffile.imwrite(tmp_path / "volume.tif", stack, photometric="minisblack")
    register_em_volume("nan", tmp_path / "volume.tif", intensity_range=(0, 1))
    with pytest.raises(VolumeError, match=r"volume\.tif, slice 2: 2 of 64 pixels are NaN, infinite"):
        read_image(DatasetCatalog.get("nan")[2])


# ---- files that do not fit together


def test_missing_label_files_are_named(volume: tuple[Path, Path]) -> None:
    (volume[1] / "s004.png").unlink()
    register_em_volume("holes", *volume)
    with pytest.raises(ValueError, match=r"9 label slices for the 10 images.*s004\.png"):
        DatasetCatalog.get("holes")


def test_sizes_must_agree(volume: tuple[Path, Path], tmp_path: Path) -> None:
    small = write_slices(tmp_path / "small", range(10), "{}.png", lambda z: ids(z, 20, 29))
    register_em_volume("sizes", volume[0], small)
    with pytest.raises(ValueError, match=r"images are 20 x 30 .* labels 20 x 29"):
        DatasetCatalog.get("sizes")


def test_slices_must_exist(volume: tuple[Path, Path]) -> None:
    register_em_volume("too_many", *volume, slices=(5, 11))
    with pytest.raises(ValueError, match=r"slices \[5, 11\].* has only 10"):
        DatasetCatalog.get("too_many")


@pytest.mark.parametrize(
    "options",
    [{"slices": (5, 5)}, {"slices": (-1, 5)}, {"slices": (0, 1.5)}, {"voxel_size": (8, 8)}, {"label_type": "panoptic"},
     {"intensity_range": "wide"}],
)  # fmt: skip
def test_options_are_checked_at_once(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        register_em_volume("wrong", "images", **options)


@pytest.mark.parametrize("voxel_size", [(30, 8), (30, 8, 0), (-30, 8, 8), (np.nan, 8, 8), (np.inf, 8, 8), "30 8 8"])
def test_a_voxel_size_is_checked_wherever_it_comes_from(volume: tuple[Path, Path], voxel_size: Any) -> None:
    with pytest.raises(ValueError, match="voxel_size must be"):
        register_em_volume("checked", volume[0], voxel_size=voxel_size)
    with pytest.raises(ValueError, match="voxel_size must be"):
        find_volume(volume[0], voxel_size=voxel_size)


def test_an_intensity_range_is_checked_wherever_it_comes_from(volume: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="what becomes black and what becomes white must differ"):
        find_volume(volume[0], intensity_range=(5, 5))


def test_slices_that_differ_in_their_ending_only_are_two(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "b.png"):
        cv2.imwrite(str(tmp_path / name), gray(0))
    slices, _ = find_volume(tmp_path)
    assert [d["image_id"].split("/")[1] for d in slices] == ["a.png", "a.tif", "b"]


# ---- YAML


def test_yaml_with_splits(volume: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nimages: images\nlabels: labels\nvoxel_size: [30, 8, 8]\nsplits: {train: [0, 8], val: [8, 10]}\n"
    )
    assert register_volumes_from_yaml(tmp_path / "mine.yaml") == ["mine_train", "mine_val"]
    assert len(DatasetCatalog.get("mine_train")) == 8
    assert DatasetCatalog.get("mine_val")[0]["image_id"] == "mine_val/s008"


def test_yaml_without_splits(volume: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nimages: images\npoints: points.json\n")
    assert register_volumes_from_yaml(tmp_path / "mine.yaml") == ["mine"]
    assert MetadataCatalog.get("mine").points == str(tmp_path / "points.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nimages: b\nlables: c\n", "unknown key lables; known are name, images, labels"),
        ("images: b\n", "`name` is missing"),
        ("name: a\nimages: b\nsplits: [0, 80]\n", "splits must be like"),
        ("name: a\nimages: b\nsplits: {train: [0]}\n", "slices must be 2 numbers"),
        ("- name: a\n", "must hold"),
        ("name: [", "not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []\nimages: b\n", "not valid YAML"),
    ],
)
def test_yaml_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        register_volumes_from_yaml(tmp_path / "wrong.yaml")


def test_yaml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        register_volumes_from_yaml(tmp_path / "none.yaml")


# ---- names


def test_a_part_of_a_data_set(volume: tuple[Path, Path]) -> None:
    register_em_volume("mine", *volume, voxel_size=(30, 8, 8), slices=(2, 10))
    assert ensure_registered(["mine[1:3]", "mine[6:]", "mine"]) == ["mine[1:3]", "mine[6:]", "mine"]
    ensure_registered("mine[1:3]")  # once more does no harm
    assert [entry["slice"] for entry in DatasetCatalog.get("mine[1:3]")] == [3, 4]
    assert [entry["slice"] for entry in DatasetCatalog.get("mine[6:]")] == [8, 9]
    entry = DatasetCatalog.get("mine[1:3]")[0]
    assert (entry["dataset_name"], entry["image_id"]) == ("mine[1:3]", "mine/s003")
    assert MetadataCatalog.get("mine[1:3]").voxel_size == (30, 8, 8)


def test_a_part_without_slices(volume: tuple[Path, Path]) -> None:
    register_em_volume("mine", *volume)
    ensure_registered("mine[10:20]")
    with pytest.raises(ValueError, match=r"'mine\[10:20\]' is empty: 'mine' has 10 slices"):
        DatasetCatalog.get("mine[10:20]")


@pytest.mark.parametrize("name", ["lucchi_tran", "lucchi_tran[0:3]", "vnc_train[-1:]", "vnc_train[a:b]"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown data set .* did you mean (lucchi|vnc)_train.* Known volumes: .*vnc"):
        ensure_registered(name)


# ---- built-in names


def test_built_in_names_are_there_without_data(root: Path) -> None:
    assert set(DatasetCatalog.list()) >= BUILTIN
    for name in BUILTIN:
        assert MetadataCatalog.get(name).evaluator_type == "em"
        with pytest.raises(FileNotFoundError, match=rf"'{name}'.*DETECTRON2_DATASETS is '{root}'.*datasets/README"):
            DatasetCatalog.get(name)


@pytest.fixture
def mitoem(root: Path) -> Path:
    """MitoEM's layout, slices 398 to 403 of it."""
    write_slices(root / "MitoEM-R/im", range(398, 404), "im{:04d}.png", lambda z: gray(z - 390))
    write_slices(root / "MitoEM-R/mito-train-v2", range(398, 400), "seg{:04d}.tif", ids)
    write_slices(root / "MitoEM-R/mito-val-v2", range(400, 404), "seg{:04d}.tif", ids)
    return root / "MitoEM-R"


def test_mitoem_labels_are_matched_by_number(mitoem: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        entries = DatasetCatalog.get("mitoem_rat_val")
    assert "only 4 of the 100 slices" in caplog.text
    assert [(e["slice"], e["label_slice"]) for e in entries] == [(2, 0), (3, 1), (4, 2), (5, 3)]
    assert entries[1]["image_id"] == "mitoem_rat_val/im0401"
    np.testing.assert_array_equal(read_image(entries[1]), gray(11))
    np.testing.assert_array_equal(read_labels(entries[1]), ids(401))


def test_mitoem_files_that_are_missing(mitoem: Path) -> None:
    (mitoem / "mito-val-v2/seg0402.tif").unlink()
    with pytest.raises(ValueError, match=r"mito-val-v2 has no label for im0402\.png"):
        DatasetCatalog.get("mitoem_rat_val")
    (mitoem / "im/im0398.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"im has no image for seg0398\.tif"):
        DatasetCatalog.get("mitoem_rat_train")


# ---- real data


@pytest.mark.parametrize(
    ("name", "slices", "instances", "size"),
    [
        ("vnc_train", 20, 389, (1024, 1024)),
        ("lucchi_train", 33, 497, (768, 1024)),
        ("lucchi_test", 17, 267, (768, 1024)),
    ],
)
def test_vnc_and_lucchi(real_data: Path, name: str, slices: int, instances: int, size: tuple[int, int]) -> None:
    entries = DatasetCatalog.get(name)
    assert len(entries) == slices
    assert (entries[0]["height"], entries[0]["width"]) == size
    assert sum(len(np.unique(read_labels(entry))) - 1 for entry in entries) == instances
    image = read_image(entries[0])
    assert 100 < image.mean() < 150
    assert 0 <= image.min() < image.max() <= 255


def test_mitoem_crops(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (real_data / "mitoem_crops").is_dir():
        pytest.skip("no crops of MitoEM")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data / "mitoem_crops"))
    rat, human = DatasetCatalog.get("mitoem_rat_val"), DatasetCatalog.get("mitoem_human_train")
    assert [entry["slice_name"] for entry in rat] == [f"im{z:04d}.png" for z in range(400, 416)]
    assert [int(read_labels(entry).max()) for entry in rat] == [0] * 12 + [4016] * 4
    assert len(np.unique(read_labels(human[0]))) == 41


def test_what_was_found_can_be_registered_under_a_name_that_follows_from_it(volume: tuple[Path, Path]) -> None:
    slices, spec = find_volume(volume[0], voxel_size=(30, 8, 8))
    name = register_slices(slices, spec)
    assert name == register_slices(*find_volume(volume[0], voxel_size=(30, 8, 8)))
    assert name != register_slices(*find_volume(volume[0], voxel_size=(30, 4, 4)))
    assert [d["slice"] for d in DatasetCatalog.get(name)] == [d["slice"] for d in slices]
    assert {d["dataset_name"] for d in DatasetCatalog.get(name)} == {name}
    assert ensure_registered(f"{name}[0:3]") == [f"{name}[0:3]"]
    assert MetadataCatalog.get(name).points is None
