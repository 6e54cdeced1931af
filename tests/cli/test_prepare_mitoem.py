"""From MitoEM's download to Zarr: the same voxels, checks that name files, a stop at any slice."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from prompt_das.cli import prepare_mitoem
from prompt_das.data.slices import open_image_volume, read_image, read_labels
from prompt_das_cli import main

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from detectron2.data import DatasetCatalog

HEIGHT, WIDTH = 33, 47


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, for a MitoEM of 8 slices: 0-3 train, 4-5 val, 6-7 without labels."""
    monkeypatch.setattr(prepare_mitoem, "SLICES", range(8))
    monkeypatch.setattr(prepare_mitoem, "SPLITS", {"train": range(4), "val": range(4, 6)})
    return prepare_mitoem


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)


def labels(number: int) -> np.ndarray:
    if number == 1:  # a slice without mitochondria
        return np.zeros((HEIGHT, WIDTH), np.uint16)
    return np.random.default_rng(number + 99).integers(0, 5000, (HEIGHT, WIDTH)).astype(np.uint16)


@pytest.fixture
def mitoem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "MitoEM-H"
    for name in ("im", "mito-train-v2", "mito-val-v2"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        cv2.imwrite(str(folder / f"im/im{number:04d}.png"), image(number))
        if number < 6:
            split = "train" if number < 4 else "val"
            tifffile.imwrite(folder / f"mito-{split}-v2/seg{number:04d}.tif", labels(number), compression="lzw")
    return folder


def assert_right(path: Path) -> None:
    group = zarr.open_group(str(path), mode="r")
    assert (group["images"].dtype, group["labels"].dtype) == (np.uint8, np.uint16)
    for number in range(8):
        np.testing.assert_array_equal(group["images"][number], image(number))
        np.testing.assert_array_equal(group["labels"][number], labels(number) if number < 6 else 0)


# ---- what is written


def test_the_same_voxels(tool: ModuleType, mitoem: Path) -> None:
    path = tool.prepare(mitoem)
    assert_right(path)
    assert zarr.open_group(str(path), mode="r").attrs["splits"] == {"train": [0, 1, 2, 3], "val": [4, 5]}
    assert not path.with_name("mitoem.zarr.progress").exists()


def test_a_prepared_data_set_is_the_unprepared_one(tool: ModuleType, mitoem: Path) -> None:
    names = ("mitoem_human_train", "mitoem_human_val")
    folders = [entry for name in names for entry in DatasetCatalog.get(name)]
    main(["prepare-mitoem", str(mitoem)])
    prepared = [entry for name in names for entry in DatasetCatalog.get(name)]
    assert {Path(entry["file_name"]).name for entry in prepared} == {"mitoem.zarr"}
    for a, b in zip(folders, prepared, strict=True):
        for key in ("dataset_name", "image_id", "slice", "slice_name", "height", "width", "intensity_range"):
            assert a[key] == b[key]
        assert open_image_volume(a).slice_names == open_image_volume(b).slice_names
        np.testing.assert_array_equal(read_image(a, (3, 5, 30, 40)), read_image(b, (3, 5, 30, 40)))
        np.testing.assert_array_equal(read_labels(a), read_labels(b))


@pytest.mark.parametrize(("highest", "dtype"), [(300, "uint16"), (70000, "uint32")])
def test_rgb_coded_ids_get_the_width_they_need(tool: ModuleType, mitoem: Path, highest: int, dtype: str) -> None:
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[5, 6] = highest // 65536, highest // 256 % 256, highest % 256
    for split, number in (("train", 0), ("train", 1), ("train", 2), ("train", 3), ("val", 4), ("val", 5)):
        tifffile.imwrite(mitoem / f"mito-{split}-v2/seg{number:04d}.tif", rgb, photometric="rgb", compression="zlib")
    array = zarr.open_group(str(tool.prepare(mitoem)), mode="r")["labels"]
    assert array.dtype == dtype
    assert array[4, 5, 6] == highest
    assert np.count_nonzero(array[:]) == 6


# ---- stop and go on


def test_it_goes_on_where_it_was_stopped(tool: ModuleType, mitoem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slice, written = tool._write_slice, []

    def stop_in_the_sixth(group: object, plan: object, z: int, number: int) -> int:
        if len(written) == 5:
            group["images"][z] = 77  # type: ignore[index] # half of a slice
            raise KeyboardInterrupt
        written.append(number)
        return write_slice(group, plan, z, number)

    monkeypatch.setattr(tool, "_write_slice", stop_in_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        tool.prepare(mitoem, workers=1)
    # Until it is complete, the data set is read from the folders.
    assert Path(DatasetCatalog.get("mitoem_human_train")[0]["file_name"]).name == "im"
    progress = mitoem / "mitoem.zarr.progress"
    with progress.open("a") as file:
        file.write("7")  # a line cut off in the middle does not count

    again: list[int] = []
    monkeypatch.setattr(tool, "_write_slice", lambda g, p, z, n: (again.append(n), write_slice(g, p, z, n))[1])
    assert_right(tool.prepare(mitoem))
    assert sorted(again) == [5, 6, 7]
    tool.prepare(mitoem)  # complete: nothing is written
    assert len(again) == 3


def test_a_stop_before_the_first_slice(tool: ModuleType, mitoem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tool.Plan, "attributes", property(lambda plan: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            tool._create(mitoem / "mitoem.zarr", mitoem / "mitoem.zarr.progress", tool.inspect(mitoem))
    assert_right(tool.prepare(mitoem))


def test_files_that_changed_are_not_mixed_with_the_old_ones(tool: ModuleType, mitoem: Path) -> None:
    tool.prepare(mitoem)
    (mitoem / "im/im0007.png").unlink()
    with pytest.raises(FileExistsError, match="--overwrite"):
        tool.prepare(mitoem, allow_partial=True)
    path = tool.prepare(mitoem, allow_partial=True, overwrite=True)
    assert zarr.open_group(str(path), mode="r")["images"].shape == (7, HEIGHT, WIDTH)


# ---- what is missing or wrong is named


def test_missing_slices(tool: ModuleType, mitoem: Path) -> None:
    (mitoem / "mito-train-v2/seg0003.tif").unlink()
    with pytest.raises(SystemExit, match=r"mito-train-v2 lacks 1 of 4 slices: seg0003\.tif"):
        main(["prepare-mitoem", str(mitoem)])
    (mitoem / "im/im0002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"im lacks 1 of 8 slices: im0002\.png"):
        tool.inspect(mitoem)
    with pytest.raises(FileNotFoundError, match=r"im has no image for mito-train-v2/seg0002\.tif"):
        tool.inspect(mitoem, allow_partial=True)


def test_a_folder_that_is_not_mitoem(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"im does not exist"):
        tool.inspect(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no slices named im0000\.png"):
        tool.inspect(tmp_path / "nowhere", allow_partial=True)


def test_the_padded_variant(tool: ModuleType, mitoem: Path) -> None:
    cv2.imwrite(str(mitoem / "im/im0008.png"), image(8))
    with pytest.raises(ValueError, match=r"im0008\.png, but MitoEM has slices 0 to 7: the padded variant"):
        tool.inspect(mitoem, allow_partial=True)


def test_sizes_and_types(tool: ModuleType, mitoem: Path) -> None:
    tifffile.imwrite(mitoem / "mito-val-v2/seg0004.tif", np.zeros((HEIGHT, WIDTH + 1), np.uint16))
    with pytest.raises(ValueError, match=r"seg0004\.tif is 33 x 48, but im0000\.png is 33 x 47"):
        tool.inspect(mitoem)
    tifffile.imwrite(mitoem / "mito-train-v2/seg0001.tif", np.zeros((HEIGHT, WIDTH), np.float32))
    with pytest.raises(ValueError, match=r"seg0001\.tif is float32"):
        tool.inspect(mitoem)
    cv2.imwrite(str(mitoem / "im/im0001.png"), image(1).astype(np.uint16))
    with pytest.raises(ValueError, match=r"im0001\.png has mode I;16"):
        tool.inspect(mitoem)


def test_a_file_that_breaks_off(tool: ModuleType, mitoem: Path) -> None:
    content = (mitoem / "im/im0005.png").read_bytes()
    (mitoem / "im/im0005.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"im0005\.png cannot be read"):
        tool.prepare(mitoem)


# ---- real crops


def test_real_crops(tool: ModuleType, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (real_data / "mitoem_crops").is_dir():
        pytest.skip("no crops of MitoEM")
    monkeypatch.undo()  # the true slice numbers
    (tmp_path / "MitoEM-R").mkdir()
    for name in ("im", "mito-val-v2"):
        (tmp_path / "MitoEM-R" / name).symlink_to(real_data.resolve() / "mitoem_crops/MitoEM-R" / name)
    with pytest.raises(FileNotFoundError, match="984 of 1000 slices"):
        tool.prepare(tmp_path / "MitoEM-R")
    tool.prepare(tmp_path / "MitoEM-R", allow_partial=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    entries = DatasetCatalog.get("mitoem_rat_val")
    assert [entry["slice_name"] for entry in entries] == [f"im{z:04d}.png" for z in range(400, 416)]
    assert [int(read_labels(entry).max()) for entry in entries] == [0] * 12 + [4016] * 4
