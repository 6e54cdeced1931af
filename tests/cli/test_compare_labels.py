"""`prompt-das evaluate --predictions`: label volumes of any format against the truth, and every way to be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

from prompt_das.volumes.ome_zarr import INSTANCES, add_instances, create_ome_zarr
from prompt_das_cli import main

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import zarr

pytestmark = pytest.mark.usefixtures("quiet_logging", "forget_new_names")
SHAPE = (4, 40, 60)


@pytest.fixture
def labels() -> np.ndarray:
    """Three instances in 4 x 40 x 60 voxels."""
    volume = np.zeros(SHAPE, np.uint16)
    volume[:, 4:16, 4:30], volume[1:, 22:36, 4:30], volume[:, 8:34, 38:54] = 1, 2, 300
    return volume


@pytest.fixture
def folder(tmp_path: Path, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The truth as truth.tif, and what is nearly it as other.tif, in the working folder."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("truth.tif", labels, photometric="minisblack")
    tifffile.imwrite("other.tif", np.where(labels == 2, 1, labels), photometric="minisblack")  # one merge
    return tmp_path


def evaluate(*words: str) -> None:
    main(["evaluate", "--predictions", *words])


def error_of(*words: str) -> str:
    before = sorted(Path().iterdir())
    with pytest.raises(SystemExit) as exit_:
        evaluate(*words)
    error = str(exit_.value.code)  # written to stderr; the code is 1
    assert error.startswith("error: ")
    assert "\n" not in error
    assert sorted(Path().iterdir()) == before  # nothing half-written
    return error


def summary() -> dict:
    return json.loads(Path("out/summary.json").read_text())


def test_a_table_a_summary_and_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("truth.tif", "other.tif", "--truth", "truth.tif", "--output", "out", "--pictures", "2")
    out = capsys.readouterr().out
    assert "4 x 40 x 60 voxels" in out
    rows = {line[17:39].strip(): line[39:].split() for line in out.splitlines()}
    assert rows["AP-75"][0] == "100.00"
    assert rows["merges"] == ["0", "1"]
    written = summary()
    assert written["truth"] == {"instances": 3, "median size": 1248.0, "path": "truth.tif"}
    assert written["predictions"]["other.tif"]["volume"]["merged"] == 2
    assert written["shape"] == list(SHAPE)
    assert len(written["slices"]) == 4
    assert written["slices"][1]["other.tif"]["instance"]["tp"] == 2  # the merge is right of the one that is larger
    pictures = sorted(Path("out/pictures").iterdir())
    assert [cv2.imread(str(path)).shape[1] > 3 * 2 * SHAPE[2] for path in pictures] == [True, True]
    assert sorted(path.name for path in folder.iterdir()) == ["other.tif", "out", "truth.tif"]


def test_without_an_output_nothing_is_written(folder: Path) -> None:
    evaluate("other.tif", "--truth", "truth.tif")
    assert sorted(path.name for path in folder.iterdir()) == ["other.tif", "truth.tif"]


def write_ome_zarr(labels: np.ndarray) -> str:
    """A result of `prompt-das predict`."""
    group = create_ome_zarr(Path("result.zarr"), SHAPE, ("probability", "density"), None, {})
    add_instances(group, SHAPE, 300, None)[:] = labels
    assert INSTANCES in group
    return "result.zarr"


def write_hdf5(labels: np.ndarray) -> str:
    with h5py.File("result.h5", "w") as file:
        file["probability"], file["labels"] = np.zeros(SHAPE, np.uint8), labels
    return "result.h5"


def write_inner(labels: np.ndarray) -> str:
    with h5py.File("inner.h5", "w") as file:
        file["a/raw"], file["a/main"] = np.zeros(SHAPE, np.uint8), labels.astype(np.int64)
    return "inner.h5::a/main"


def write_zarr(labels: np.ndarray) -> str:
    zarr.save_array("plain.zarr", labels.astype(np.uint64))
    return "plain.zarr"


def write_folder(labels: np.ndarray) -> str:
    Path("slices").mkdir()
    for z, plane in enumerate(labels):
        cv2.imwrite(f"slices/{z}.png", plane)
    return "slices"


@pytest.mark.parametrize("write", [write_ome_zarr, write_hdf5, write_inner, write_zarr, write_folder])
@pytest.mark.usefixtures("folder")
def test_every_format(write: object, labels: np.ndarray) -> None:
    assert callable(write)
    name = write(labels)
    evaluate(name, "--truth", name, "--output", "out", "--pictures", "0")
    (scores,) = summary()["predictions"].values()
    assert scores["path"] == name
    assert scores["volume"]["AP-75"] == 100
    assert scores["volume"]["instances"] == 3
    assert not Path("out/pictures").exists()


def describe(**lines: str) -> str:
    tifffile.imwrite("scan.tif", np.full(SHAPE, 90, np.uint8), photometric="minisblack")
    text = {"name": "lab", "images": "scan.tif", "voxel_size": "[30, 8, 8]", **lines}
    Path("lab.yaml").write_text("".join(f"{key}: {value}\n" for key, value in text.items()))
    return "lab.yaml"


@pytest.mark.usefixtures("folder")
def test_a_description_is_a_truth_with_images(labels: np.ndarray) -> None:
    evaluate("other.tif", "--truth", describe(labels="truth.tif"), "--output", "out", "--pictures", "1")
    assert summary()["voxel_size"] == [30, 8, 8]
    (path,) = Path("out/pictures").iterdir()
    assert [90] * 3 in cv2.imread(str(path)).reshape(-1, 3).tolist()


@pytest.mark.usefixtures("folder")
def test_a_part_of_a_description(labels: np.ndarray) -> None:
    truth = describe(labels="truth.tif", splits="{a: [0, 1], b: [1, 4]}")
    tifffile.imwrite("b.tif", labels[1:], photometric="minisblack")
    assert "say which one, as lab.yaml::lab_a or lab.yaml::lab_b" in error_of("b.tif", "--truth", truth)
    evaluate("b.tif", "--truth", f"{truth}::lab_b", "--output", "out")
    assert summary()["predictions"]["b.tif"]["volume"]["PQ"] == 100


@pytest.mark.usefixtures("synthetic_data")
def test_a_registered_name_is_a_truth(synthetic_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = synthetic_data / "synthetic" / "target" / "mito-val-v2"
    evaluate(str(folder), "--truth", "synthetic_target_val")
    assert "2 x 96 x 96 voxels" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_masks_are_noted(labels: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("mask.tif", (255 * (labels > 0)).astype(np.uint8), photometric="minisblack")
    truth = describe(labels="mask.tif", label_type="semantic")
    evaluate("mask.tif", "--truth", truth)
    out = capsys.readouterr().out
    assert "mask.tif holds the single id 255" in out
    assert "lab.yaml, is a mask" in out
    assert "AP-75" not in out


@pytest.mark.usefixtures("folder")
def test_volumes_that_cannot_be_compared(labels: np.ndarray) -> None:
    tifffile.imwrite("small.tif", labels[:3], photometric="minisblack")
    tifffile.imwrite("float.tif", labels.astype(np.float32), photometric="minisblack")
    tifffile.imwrite("negative.tif", labels.astype(np.int32) - (labels == 300) * 301, photometric="minisblack")
    tifffile.imwrite("empty.tif", 0 * labels, photometric="minisblack")
    against = ("--truth", "truth.tif", "--output", "out")
    assert "small.tif has the shape 3 x 40 x 60 and the truth, truth.tif, 4 x 40 x 60" in error_of(
        "small.tif", *against
    )
    assert "float.tif holds float32, and labels are integers" in error_of("float.tif", *against)
    assert "negative.tif, slice 0: ids must be 0..2^63 - 1, found -1..1" in error_of("negative.tif", *against)
    assert "missing.tif does not exist" in error_of("missing.tif", *against)
    assert "the truth, empty.tif, is empty" in error_of("truth.tif", "--truth", "empty.tif", "--output", "out")
    assert "float.tif holds float32" in error_of("truth.tif", "--truth", "float.tif", "--output", "out")
    assert "missing.yaml does not exist" in error_of("truth.tif", "--truth", "missing.yaml")
    assert "unknown data set 'nothing'" in error_of("truth.tif", "--truth", "nothing")
    assert "lab.yaml has no labels to compare with" in error_of("truth.tif", "--truth", describe())
    assert "truth.tif is given twice" in error_of("truth.tif", "truth.tif", *against)


@pytest.mark.usefixtures("folder")
def test_arrays_that_are_not_there_or_not_named(labels: np.ndarray) -> None:
    name = write_inner(labels).partition("::")[0]
    assert "inner.h5 holds the arrays ['a/main', 'a/raw']: say which one" in error_of(name, "--truth", "truth.tif")
    assert "has no array 'b'" in error_of(f"{name}::b", "--truth", "truth.tif")
    group = zarr.open_group(write_ome_zarr(labels), mode="a")
    group["labels"].attrs["labels"] = ["instances", "nuclei"]
    assert "say which one, as result.zarr::labels/instances/0 or" in error_of("result.zarr", "--truth", "truth.tif")


@pytest.mark.usefixtures("folder")
def test_an_output_that_exists_is_kept() -> None:
    Path("out").mkdir()
    Path("out/precious").touch()
    error = error_of("other.tif", "--truth", "truth.tif", "--output", "out")
    assert "out exists already; choose another folder" in error
    Path("file").touch()
    assert "file exists already" in error_of("other.tif", "--truth", "truth.tif", "--output", "file")


@pytest.mark.usefixtures("folder")
def test_no_output_goes_into_what_is_compared(labels: np.ndarray) -> None:
    zarr.open_group("labels.zarr", mode="w").create_array("ids", data=labels)
    os.mkdir("slices")
    for z, of_slice in enumerate(labels):
        tifffile.imwrite(f"slices/{z}.tif", of_slice)
    for volume, output in (
        ("labels.zarr", "labels.zarr/ids/new"),
        ("slices", "slices/new"),
        ("other.tif", "other.tif"),
    ):
        with pytest.raises(SystemExit, match="would be written over the input"):
            evaluate(volume, "--truth", "truth.tif", "--output", output)
    assert sorted(os.listdir("slices")) == [f"{z}.tif" for z in range(len(labels))]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["", "::", "::ids"])
def test_an_empty_name_is_named(name: str) -> None:
    """A script whose variable is not set; the empty path would be the working folder."""
    with pytest.raises(SystemExit, match="does not exist"):
        evaluate(name, "--truth", "truth.tif")


@pytest.mark.usefixtures("folder")
def test_a_damaged_slice_leaves_nothing_behind(labels: np.ndarray) -> None:
    name = write_folder(labels)
    path = Path(name, "3.png")
    path.write_bytes(path.read_bytes()[:60])
    assert "3.png" in error_of(name, "--truth", "truth.tif", "--output", "out")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--weights", "model.safetensors"], "--weights is"),
        (["--config-file", "quick/synthetic_wda"], "--config-file is"),
        (["--clicks"], "--clicks is"),
        (["--diameter", "30"], "--diameter is"),
        (["--num-gpus", "2"], "--num-gpus is"),
        (["SEED", "1"], "'SEED 1' is"),
    ],
)
def test_labels_and_a_model_are_not_mixed(words: list[str], option: str) -> None:
    error = error_of("other.tif", "--truth", "truth.tif", *words)
    assert option in error
    assert "leave out one" in error


@pytest.mark.usefixtures("folder")
def test_what_belongs_together() -> None:
    assert "--predictions needs --truth" in error_of("other.tif")
    assert "the number of pictures is -1" in error_of("other.tif", "--truth", "truth.tif", "--pictures", "-1")
    for word in ("--truth", "--output"):
        with pytest.raises(SystemExit, match=f"{word} belongs to --predictions"):
            main(["evaluate", "--config-file", "quick/synthetic_wda", word, "truth.tif"])


@pytest.mark.usefixtures("folder")
def test_predictions_of_one_file_name_have_their_folder_in_the_name() -> None:
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(f"{name}/other.tif").write_bytes(Path("other.tif").read_bytes())
    evaluate("a/other.tif", "b/other.tif", "--truth", "truth.tif", "--output", "out")
    assert list(summary()["predictions"]) == ["a/other.tif", "b/other.tif"]
