"""Whole volumes: the same as slice by slice, whatever happens on the way."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import resource
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.inference.volume import source as volume_source
from prompt_das.inference.volume.executors import dask_executor
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.inference.volume.workspace import MARKER, Workspace
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import load_model
from prompt_das.modeling.meta_arch import NO_PROMPTS
from prompt_das.ops.connected_components import semantic_to_instances
from prompt_das.volumes.ome_zarr import INSTANCES, finest
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.point_files import read_points, write_points
from prompt_das.volumes.volume import VolumeError

import cv2
import numpy as np
import pyarrow.parquet
import pytest
import scipy.ndimage
import tifffile
import torch
import zarr
from distributed import default_client

SHAPE = (5, 48, 40)
STEPS = SHAPE[0] + 7  # lines of the journal
SOURCE = {field.name for field in dataclasses.fields(VolumeSource)}
SETTINGS = {field.name for field in dataclasses.fields(VolumeSettings)}


@pytest.fixture
def images(tmp_path: Path, slices: np.ndarray) -> Path:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, slices)
    return path


@pytest.fixture
def several_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyramids of three levels of the small slices here."""
    monkeypatch.setattr("prompt_das.volumes.pyramid._COARSEST", 12)


both_versions = pytest.mark.parametrize("version", ["0.4", "0.5"])
# Where a job is stopped: by turns with the one and the other version, with both of them in `make test-slow`.
stops_of_versions = pytest.mark.parametrize(
    ("version", "stops"),
    [
        ("0.4", slice(0, None, 2)),
        ("0.5", slice(1, None, 2)),
        pytest.param("0.4", slice(1, None, 2), marks=pytest.mark.slow),
        pytest.param("0.5", slice(0, None, 2), marks=pytest.mark.slow),
    ],
    ids=["0.4", "0.5", "0.4, the others", "0.5, the others"],
)
Predict = Callable[..., Any]


@pytest.fixture
def predict(weights: Path) -> Predict:
    """`predict_volume` with the fields of source and settings as arguments."""

    def run(volume: Any, output: Any, **kwargs: Any) -> Any:
        source = VolumeSource(volume, **{name: kwargs.pop(name) for name in SOURCE & kwargs.keys()})
        settings = VolumeSettings(**{name: kwargs.pop(name) for name in SETTINGS & kwargs.keys()})
        return predict_volume(weights, source, output, settings, progress=False, **kwargs)

    return run


def content(path: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def arrays(path: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(str(path), mode="r")
    maps = {name: np.asarray(finest(group, name)) for name in ("probability", "density")}
    return {**maps, INSTANCES: np.asarray(group[INSTANCES])}


# ---- what is predicted


def test_maps_are_those_of_the_network(
    predict: Predict, weights: Path, images: Path, slices: np.ndarray, tmp_path: Path
) -> None:
    points = {1: np.array([[10.5, 20.5], [30.0, 4.0]], np.float32), 3: np.array([[0.5, 0.5]], np.float32)}
    write_points(tmp_path / "points.json", points)
    predict(images, tmp_path / "out.zarr", points=tmp_path / "points.json")
    _, model = load_model(weights)
    maps = arrays(tmp_path / "out.zarr")
    for z, one in enumerate(slices):
        prompts = {"all": points.get(z, np.zeros((0, 2), np.float32))}
        image = torch.from_numpy(one.astype(np.float32))[None]
        out = model.predict_slice(image, prompts, tuple(image.shape[1:]), with_density=True)
        assert np.abs(maps["probability"][z] / 255 - out["sem_seg"]["all"].numpy()).max() <= 0.5001 / 255
        density = out["density"]["all"].clamp(0, 1).numpy()
        assert np.abs(maps["density"][z] / 255 - density).max() <= 0.5001 / 255


def test_prompts_make_a_difference(predict: Predict, images: Path, tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("z,y,x\n2,20,10\n")
    predict(images, tmp_path / "with.zarr", points=tmp_path / "clicks.csv")
    predict(images, tmp_path / "without.zarr")
    differs = np.any(
        arrays(tmp_path / "with.zarr")["probability"] != arrays(tmp_path / "without.zarr")["probability"], axis=(1, 2)
    )
    assert differs.tolist() == [False, False, True, False, False]


def test_instances_are_the_components_of_the_whole_volume(predict: Predict, images: Path, tmp_path: Path) -> None:
    result = predict(images, tmp_path / "out.zarr", min_size=10)
    maps = arrays(tmp_path / "out.zarr")
    expected, _ = scipy.ndimage.label(maps["probability"] >= 128, np.ones((3, 3, 3)))
    sizes = np.bincount(expected.ravel())
    sizes[0] = 0
    np.testing.assert_array_equal(maps[INSTANCES] > 0, sizes[expected] > 10)
    pairs = np.unique(np.stack([maps[INSTANCES].ravel(), np.where(sizes[expected] > 10, expected, 0).ravel()]), axis=1)
    assert pairs.shape[1] == result.count + 1  # one to one, and the background
    assert result.count > 1


@pytest.mark.parametrize("linked", [True, False])
def test_images_of_odd_width(predict: Predict, slices: np.ndarray, tmp_path: Path, linked: bool) -> None:
    """The last slices of a volume, and slices by themselves, are labeled in 2-D."""
    tifffile.imwrite(tmp_path / "odd.tif", slices[:, :47, :39])
    predict(tmp_path / "odd.tif", tmp_path / "out.zarr", linked=linked, min_size=0)
    maps = arrays(tmp_path / "out.zarr")
    neighbors = np.ones((3, 3, 3))
    neighbors[[0, 2]] = linked
    expected, _ = scipy.ndimage.label(maps["probability"] >= 128, neighbors)
    np.testing.assert_array_equal(maps[INSTANCES], expected)


def test_instances_of_slices(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "out.zarr", linked=False, threshold=0.501, min_size=4)
    maps = arrays(tmp_path / "out.zarr")
    before = 0
    for probability, labels in zip(maps["probability"] / 255, maps[INSTANCES], strict=True):
        expected = semantic_to_instances(probability > 0.501, 4)
        np.testing.assert_array_equal(labels, np.where(expected, expected + before, 0))
        before += expected.max()
    assert before > len(maps[INSTANCES])


def test_components_that_are_left_out_are_no_instances(
    predict: Predict, weights: Path, images: Path, slices: np.ndarray, tmp_path: Path
) -> None:
    """In a stored volume as in a slice, where their probability is that of the threshold."""

    def probabilities(*opts: str) -> np.ndarray:
        _, model = load_model(weights, opts=opts)
        scan = torch.from_numpy(slices.astype(np.float32))[:, None]
        maps = [model.predict_slice(one, NO_PROMPTS, slices.shape[1:])["sem_seg"]["0%"] for one in scan]
        return torch.stack(maps).numpy()

    every = probabilities()
    opts = "TEST.MIN_CONFIDENCE", str((0.5 + every.max()) / 2)
    mask = probabilities(*opts) > 0.5
    assert 0 < mask.sum() < (every > 0.5).sum()
    predict(images, tmp_path / "out.zarr", opts=opts, min_size=0)
    np.testing.assert_array_equal(arrays(tmp_path / "out.zarr")[INSTANCES] > 0, mask)


@pytest.mark.parametrize("suffix", [".h5", ".tif"])
def test_other_formats_hold_the_same(predict: Predict, images: Path, tmp_path: Path, suffix: str) -> None:
    predict(images, tmp_path / "out.zarr")
    predict(images, tmp_path / f"out{suffix}")
    for name, array in arrays(tmp_path / "out.zarr").items():
        name = "labels" if name == INSTANCES else name
        if suffix == ".h5":
            copy = open_volume(tmp_path / "out.h5", name)
        else:
            copy = open_volume(tmp_path / ("out.tif" if name == "labels" else f"out_{name}.tif"))
        np.testing.assert_array_equal(np.stack([copy.read(z) for z in range(len(copy))]), array)
    assert not list(tmp_path.glob("*.part"))


def test_other_versions_of_ome_zarr_hold_the_same(
    predict: Predict, images: Path, tmp_path: Path, several_levels: None
) -> None:
    groups = []
    for version in ("0.4", "0.5"):
        predict(images, tmp_path / f"{version}.zarr", ome_version=version, voxel_size=(8, 8, 8))
        groups.append(zarr.open_group(str(tmp_path / f"{version}.zarr"), mode="r"))
    for name in ("probability", "density", "labels/instances"):
        for level, shape in enumerate([(5, 48, 40), (3, 24, 20), (2, 12, 10)]):
            stored = [np.asarray(group[f"{name}/{level}"]) for group in groups]
            assert stored[0].shape == shape
            assert stored[0].any()
            np.testing.assert_array_equal(*stored)
    assert groups[0].attrs["prompt_das"] == groups[1].attrs["prompt_das"]
    described = groups[0]["labels/instances"].attrs["image-label"]["properties"]
    assert sum(one["voxels"] for one in described) == np.count_nonzero(groups[0][INSTANCES])


def test_weights_that_were_replaced_are_read_again(weights: Path, images: Path, tmp_path: Path) -> None:
    cfg, model = load_model(weights)
    mine = tmp_path / "mine.safetensors"
    probability = []
    for scale in (1, -1):
        state = {name: scale * value for name, value in model.state_dict().items()}
        export_weights(mine, state, cfg.dump())
        predict_volume(mine, images, tmp_path / "out.zarr", overwrite=True, progress=False)
        probability.append(arrays(tmp_path / "out.zarr")["probability"])
    assert not np.array_equal(*probability)


def test_without_density_there_is_none(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "out.zarr", density=False)
    assert "density" not in zarr.open_group(str(tmp_path / "out.zarr"), mode="r")


def test_a_folder_an_image_and_a_description(predict: Predict, folder: Path, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "tiff.zarr")
    predict(folder, tmp_path / "folder.zarr")
    predict(folder / "2.png", tmp_path / "image.zarr")
    (tmp_path / "lab.yaml").write_text("name: lab_for_test_volume\nimages: scan\nvoxel_size: [30, 8, 8]\n")
    predict(tmp_path / "lab.yaml", tmp_path / "yaml.zarr")
    expected = arrays(tmp_path / "tiff.zarr")["probability"]
    np.testing.assert_array_equal(arrays(tmp_path / "folder.zarr")["probability"], expected)
    np.testing.assert_array_equal(arrays(tmp_path / "yaml.zarr")["probability"], expected)
    np.testing.assert_array_equal(arrays(tmp_path / "image.zarr")["probability"], expected[2:3])
    group = zarr.open_group(str(tmp_path / "yaml.zarr"), mode="r")
    assert group.attrs["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [30, 8, 8]
    assert group.attrs["prompt_das"]["image"]["path"] == str(folder)


# ---- instances from centers


@pytest.fixture
def many_clicks(tmp_path: Path) -> Path:
    """On two slices, some of them on the same component, which they split."""
    path = tmp_path / "many.json"
    y, x = np.mgrid[4:48:8, 4:40:8] + 0.5
    write_points(path, dict.fromkeys((1, 3), np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)))
    return path


def test_instances_from_centers_are_the_same_wherever_and_however_often_it_was_stopped(
    predict: Predict, images: Path, many_clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"points": many_clicks, "instances_from": "centers", "min_size": 0}
    result = predict(images, tmp_path / "whole.zarr", **given)
    joined = predict(images, tmp_path / "joined.zarr", points=many_clicks, min_size=0)
    assert result.count > joined.count
    maps = arrays(tmp_path / "whole.zarr")
    assert np.array_equal(maps[INSTANCES] > 0, maps["probability"] >= 128)
    provenance = [
        zarr.open_group(str(tmp_path / n), mode="r").attrs["prompt_das"] for n in ("whole.zarr", "joined.zarr")
    ]
    assert provenance[0]["centers"] == {"threshold": 0.05, "kernel": 5}  # those of the tiny network
    assert "centers" not in provenance[1]

    expected = content(tmp_path / "whole.zarr")
    log = Workspace.log
    monkeypatch.setattr(Workspace, "log", stopping_after(4))
    with pytest.raises(KeyboardInterrupt):
        predict(images, tmp_path / "stopped.zarr", **given)
    monkeypatch.setattr(Workspace, "log", log)
    with pytest.raises(FileExistsError, match=r"stopped\.zarr"):
        predict(images, tmp_path / "stopped.zarr", points=many_clicks, min_size=0)  # another job
    predict(images, tmp_path / "stopped.zarr", **given)
    assert content(tmp_path / "stopped.zarr") == expected

    def backwards(function: Any, tasks: Any, **options: Any) -> Any:
        for task in reversed(tasks):
            yield from function([task])

    predict(images, tmp_path / "backwards.zarr", executor=backwards, **given)
    assert content(tmp_path / "backwards.zarr") == expected


def test_the_config_chooses_and_settings_override_it(
    predict: Predict, images: Path, many_clicks: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"points": many_clicks, "min_size": 0, "opts": ["TEST.INSTANCES", "centers"]}
    split = predict(images, tmp_path / "split.zarr", **given)
    whole = predict(images, tmp_path / "whole.zarr", instances_from="components", **given)
    assert split.count > whole.count


def test_centers_need_the_density(predict: Predict, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"instances from centers need the density .*: leave --no-density"):
        predict(images, tmp_path / "out.zarr", density=False, opts=["TEST.INSTANCES", "centers"])
    with pytest.raises(ValueError, match="instances_from is 'centres'; use 'components' or 'centers'"):
        VolumeSettings(instances_from="centres")


# ---- the table


def test_the_table_has_one_row_for_each_instance(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "out.zarr", table=tmp_path / "table.csv", voxel_size=(30, 8, 8))
    maps = arrays(tmp_path / "out.zarr")
    labels = maps[INSTANCES]
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(1, labels.max() + 1))
    for row, box in zip(rows, scipy.ndimage.find_objects(labels), strict=True):
        inside = labels == int(row["id"])
        assert int(row["voxels"]) == inside.sum()
        assert float(row["volume_um3"]) == pytest.approx(inside.sum() * 0.03 * 0.008 * 0.008, rel=1e-5)
        assert float(row["mean_probability"]) == pytest.approx(maps["probability"][inside].mean() / 255, abs=1e-4)
        centroid = np.array(scipy.ndimage.center_of_mass(inside))
        np.testing.assert_allclose([float(row[f"centroid_{axis}"]) for axis in "zyx"], centroid, atol=1e-3)
        voxels = np.argwhere(inside)
        nearest = voxels[((voxels - centroid) ** 2).sum(1).argmin()]
        assert [int(row[axis]) for axis in "zyx"] == nearest.tolist()
        assert [(int(row[f"{a}_start"]), int(row[f"{a}_stop"])) for a in "zyx"] == [(s.start, s.stop) for s in box]


def test_a_table_in_parquet_holds_what_that_in_csv_holds(predict: Predict, images: Path, tmp_path: Path) -> None:
    for ending in ("csv", "parquet"):
        given: dict[str, Any] = {"table": tmp_path / f"table.{ending}", "voxel_size": (30, 8, 8)}
        predict(images, tmp_path / f"{ending}.zarr", **given)
    table = pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pydict()
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(table) == list(rows[0])
    for name, values in table.items():
        assert values == [float(row[name]) for row in rows]


def test_parquet_without_its_package_is_refused_before_anything_is_predicted(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"table\.parquet needs pyarrow: pip install 'prompt_das\[parquet\]'"):
        predict(images, tmp_path / "out.zarr", table=tmp_path / "table.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"scan.tif"}


@pytest.mark.parametrize("linked", [True, False])
def test_the_table_can_be_read_as_points_each_inside_its_instance(
    predict: Predict, images: Path, tmp_path: Path, linked: bool
) -> None:
    predict(images, tmp_path / "out.zarr", linked=linked, min_size=0, table=tmp_path / "table.csv")
    labels = arrays(tmp_path / "out.zarr")[INSTANCES]
    points = read_points(tmp_path / "table.csv", num_slices=SHAPE[0], size=SHAPE[1:])
    ids = [labels[z][tuple(np.floor(one[:, ::-1]).astype(int).T)] for z, one in points.items()]
    assert sorted(np.concatenate(ids)) == list(range(1, labels.max() + 1))
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    assert ("voxels" if linked else "pixels") in header
    assert "um" not in header  # nobody said how large a pixel is


# ---- stopped and started again


def stopping_after(count: int) -> Callable[..., None]:
    """``Workspace.log`` as if the user pressed Ctrl-C at the last of so many."""
    log, left = Workspace.log, iter(range(count - 1, -1, -1))

    def stop(self: Workspace, **what: Any) -> None:
        log(self, **what)
        if next(left) == 0:
            raise KeyboardInterrupt

    return stop


@pytest.mark.long
@stops_of_versions
def test_stopped_after_any_step_it_goes_on_to_the_same_files(
    predict: Predict,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    several_levels: None,
    version: str,
    stops: slice,
) -> None:
    predict(images, tmp_path / "whole.zarr", ome_version=version)
    expected = content(tmp_path / "whole.zarr")
    log, predicted = Workspace.log, []
    network = PromptDAS.predict_slice

    def counted(*args: Any, **kwargs: Any) -> Any:
        predicted.append(1)
        return network(*args, **kwargs)

    monkeypatch.setattr(PromptDAS, "predict_slice", counted)
    for stop_at in range(1, STEPS + 1)[stops]:
        out = tmp_path / f"stopped{stop_at}.zarr"
        predicted.clear()
        monkeypatch.setattr(Workspace, "log", stopping_after(stop_at))
        with pytest.raises(KeyboardInterrupt):
            predict(images, out, ome_version=version)
        assert not out.exists()
        monkeypatch.setattr(Workspace, "log", log)
        predict(images, out, ome_version=version)
        assert content(out) == expected
        assert len(predicted) <= SHAPE[0] + 2  # the one in work and the one being written are lost, no more
    assert not list(tmp_path.glob("*.part"))


def _predict_in_process(limit: int | None, *args: Any) -> None:
    torch.set_num_threads(1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    predict_volume(*args, progress=False)


def lines(path: Path) -> int:
    """Content of a file that another process may make or remove at any moment."""
    try:
        return path.read_text().count("\n")
    except FileNotFoundError:
        return 0


@pytest.mark.long
def test_killed_at_random_moments_it_goes_on_to_the_same_files(
    predict: Predict, weights: Path, tmp_path: Path, rng: np.random.Generator, start_process: Any
) -> None:
    images = tmp_path / "long.tif"
    tifffile.imwrite(images, rng.integers(0, 256, (20, 64, 64), dtype=np.uint8))

    def start(output: str) -> Any:
        return start_process(_predict_in_process, None, weights, images, tmp_path / output)

    start("whole.h5").join()
    result, kills = tmp_path / "killed.h5", 0
    progress = tmp_path / "killed.h5.part" / "progress.jsonl"
    for slices, more in zip(sorted(rng.integers(0, 20, 4)), rng.uniform(0, 0.05, 4), strict=True):
        job = start(result.name)
        while job.is_alive() and lines(progress) <= slices:
            time.sleep(0.01)
        time.sleep(more)
        job.kill()
        job.join()
        kills += job.exitcode == -signal.SIGKILL
        if result.exists():
            break
    assert kills
    if not result.exists() or (tmp_path / "killed.h5.part").exists():
        predict(images, result)
    assert result.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_no_room_on_the_disk(weights: Path, images: Path, tmp_path: Path, predict: Predict, start_process: Any) -> None:
    """The kernel refuses files of more than 1 kB."""
    job = start_process(_predict_in_process, 1000, weights, images, tmp_path / "out.zarr")
    job.join()
    assert job.exitcode == 1
    assert not (tmp_path / "out.zarr").exists()
    predict(images, tmp_path / "out.zarr")
    predict(images, tmp_path / "whole.zarr")
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


def test_a_result_that_is_there_stays_there(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "out.zarr")
    before = content(tmp_path / "out.zarr")
    with pytest.raises(FileExistsError, match=r"out\.zarr exists already"):
        predict(images, tmp_path / "out.zarr", threshold=0.6)
    assert content(tmp_path / "out.zarr") == before
    predict(images, tmp_path / "out.zarr", threshold=0.6, overwrite=True)
    assert content(tmp_path / "out.zarr") != before


@pytest.mark.parametrize("victim", ["weights", "images", "points"])
@pytest.mark.parametrize("argument", ["table", "output"])
def test_no_input_is_written_over(weights: Path, images: Path, tmp_path: Path, victim: str, argument: str) -> None:
    copies = {"weights": tmp_path / "my.safetensors", "images": images, "points": tmp_path / "clicks.csv"}
    shutil.copy(weights, copies["weights"])
    copies["points"].write_text("z,y,x\n0,1,2\n")
    before = content(tmp_path)
    given: dict[str, Any] = {"output": tmp_path / "out.zarr", argument: copies[victim]}
    output = given.pop("output")
    source = VolumeSource(images, points=copies["points"])
    with pytest.raises(ValueError, match=r"would be written over the input|is not a format"):
        predict_volume(copies["weights"], source, output, overwrite=True, progress=False, **given)
    assert content(tmp_path) == before


def test_an_input_with_the_name_of_a_map_is_not_replaced(predict: Predict, images: Path, tmp_path: Path) -> None:
    named = images.rename(tmp_path / "out_probability.tif")
    before = named.read_bytes()
    with pytest.raises(ValueError, match=r"out_probability\.tif would be written over the input"):
        predict(named, tmp_path / "out.tif", overwrite=True)
    assert named.read_bytes() == before


@pytest.mark.parametrize("name", ["out_density.tif", "table.csv"])
def test_every_file_that_is_there_stays_there(predict: Predict, images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} exists already"):
        predict(images, tmp_path / "out.tif", table=tmp_path / "table.csv")
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, images.name])


def test_an_output_that_cannot_be_named_is_refused_before_anything_is_predicted(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptDAS, "predict_slice", lambda *_: pytest.fail("predicted"))
    with pytest.raises(OSError, match="the name is 2 bytes too long"):
        predict(images, tmp_path / f"{'x' * 247}.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "nowhere.zarr")
    with pytest.raises(FileNotFoundError, match=r"link\.zarr is a link to .*nowhere\.zarr, which does not exist"):
        predict(images, tmp_path / "link.zarr")


# ---- inputs that change while the job is stopped


@pytest.fixture
def stopped(predict: Predict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a job on ``folder`` that was stopped after two slices."""
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "log", stopping_after(3))
        with pytest.raises(KeyboardInterrupt):
            predict(folder, tmp_path / "out.zarr")
    return tmp_path / "out.zarr"


def test_a_slice_that_changed_is_named(predict: Predict, folder: Path, stopped: Path) -> None:
    cv2.imwrite(str(folder / "2.png"), np.zeros(SHAPE[1:], np.uint8))
    with pytest.raises(FileExistsError, match=r"begun with other settings \(inputs: 2\.png \["):
        predict(folder, stopped)
    predict(folder, stopped, overwrite=True)
    assert not open_volume(folder).read(2).any()


def test_a_first_slice_with_other_pixels_but_the_same_size_and_time_is_noticed(
    predict: Predict, folder: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_source, "_digest_slice", lambda dataset_dict: f"other {dataset_dict['slice']}")
    with pytest.raises(FileExistsError, match=r"first_slice .* -> 'other 0'"):
        predict(folder, stopped)


def test_slices_of_another_size_are_noticed(predict: Predict, folder: Path, stopped: Path) -> None:
    for z in range(SHAPE[0]):
        cv2.imwrite(str(folder / f"{z}.png"), np.zeros((30, 30), np.uint8))
    with pytest.raises(FileExistsError, match=r"shape \[5, 48, 40\] -> \[5, 30, 30\]"):
        predict(folder, stopped)


@pytest.mark.parametrize(
    ("key", "value"),
    [("TEST.MIN_CONFIDENCE", "0.7"), ("TEST.CLICK_REACH", "object"), ("TEST.WINDOW.STRIDE", "13")],
)
def test_other_settings_of_the_prediction_are_noticed(
    predict: Predict, folder: Path, stopped: Path, key: str, value: str
) -> None:
    with pytest.raises(FileExistsError, match=r"begun with other settings .*network"):
        predict(folder, stopped, opts=[key, value])


# ---- a loss of power


class Disk:
    """Records what was flushed, and loses the rest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[int, int] = {}  # by inode, the time of the content that was flushed
        self.names: dict[int, set[str]] = {}  # of a folder
        fsync = os.fsync

        def recorded(descriptor: int) -> None:
            fsync(descriptor)
            found = os.fstat(descriptor)
            self.files[found.st_ino] = found.st_mtime_ns
            if stat.S_ISDIR(found.st_mode):
                self.names[found.st_ino] = set(os.listdir(descriptor))

        monkeypatch.setattr(os, "fsync", recorded)

    def lose_power(self, folder: Path) -> int:
        """Empty files whose content was not flushed, remove names that were not -> how many."""
        lost = 0
        known = self.names.get(folder.stat().st_ino, set())
        for path in sorted(folder.iterdir()):
            if path.name not in known and path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                lost += 1
            elif path.is_dir():
                lost += self.lose_power(path)
            elif self.files.get(path.stat().st_ino) != path.stat().st_mtime_ns:
                path.write_bytes(b"")
                lost += path.name not in ("lock", MARKER)
        return lost


@pytest.mark.long
@stops_of_versions
def test_power_lost_after_any_line_of_the_journal_costs_nothing_that_the_journal_lists(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, stops: slice
) -> None:
    predict(images, tmp_path / "whole.zarr", ome_version=version)
    expected = content(tmp_path / "whole.zarr")
    log = Workspace.log
    disk = Disk(monkeypatch)
    for stop_at in range(1, STEPS + 1)[stops]:
        out = tmp_path / f"lost{stop_at}.zarr"
        monkeypatch.setattr(Workspace, "log", stopping_after(stop_at))
        with pytest.raises(KeyboardInterrupt):
            predict(images, out, ome_version=version)
        monkeypatch.setattr(Workspace, "log", log)
        part = out.with_name(f"{out.name}.part")
        disk.lose_power(part)
        assert lines(part / "progress.jsonl") == stop_at
        predict(images, out, ome_version=version)
        assert content(out) == expected


@both_versions
def test_power_lost_while_levels_and_attributes_are_written_costs_no_slice(
    predict: Predict,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    several_levels: None,
    version: str,
) -> None:
    """Attributes that were on the disk are written again at the end, and not flushed before all is."""
    predict(images, tmp_path / "whole.zarr", ome_version=version)
    disk = Disk(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict(images, tmp_path / "out.zarr", ome_version=version)
    assert disk.lose_power(tmp_path / "out.zarr.part")
    monkeypatch.setattr(PromptDAS, "predict_slice", lambda *_: pytest.fail("predicted again"))
    predict(images, tmp_path / "out.zarr", ome_version=version)
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


def interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


def test_an_unfinished_job_of_an_earlier_version_is_named(predict: Predict, folder: Path, stopped: Path) -> None:
    settings = stopped.with_name("out.zarr.part") / "settings.json"
    before = json.loads(settings.read_text())
    del before["ome_version"]  # and its arrays lie elsewhere
    settings.write_text(json.dumps(before))
    with pytest.raises(FileExistsError, match=r"begun with other settings \(ome_version None -> '0.4'\)"):
        predict(folder, stopped)
    predict(folder, stopped, overwrite=True)


def test_power_lost_after_the_end_costs_nothing(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    (tmp_path / "results").mkdir()
    predict(images, tmp_path / "results" / "out.zarr", table=tmp_path / "results" / "table.csv")
    predict(images, tmp_path / "results" / "out.tif")
    assert disk.lose_power(tmp_path / "results") == 0


def test_a_slice_that_is_not_what_was_written_is_predicted_again(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(images, tmp_path / "whole.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "log", stopping_after(4))
        with pytest.raises(KeyboardInterrupt):
            predict(images, tmp_path / "out.zarr")
    store = tmp_path / "out.zarr.part" / "volume.zarr"
    (store / "probability" / "0" / "1" / "0" / "0").write_bytes(b"")
    shutil.rmtree(store / "density" / "0" / "2")
    predict(images, tmp_path / "out.zarr")
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


# ---- bad input


@pytest.fixture
def damaged(folder: Path) -> Path:
    """A folder with a truncated slice, and one of another size."""
    file = folder / "1.png"
    file.write_bytes(file.read_bytes()[:500])
    cv2.imwrite(str(folder / "3.png"), np.zeros((7, 9), np.uint8))
    return folder


def test_a_damaged_slice_stops_and_names_itself(predict: Predict, damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"1\.png \(slice 1\)"):
        predict(damaged, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    # It may be skipped now, and what was done before still counts.
    assert list(predict(damaged, tmp_path / "out.zarr", on_error="skip").skipped) == [1, 3]


def test_damaged_slices_are_skipped_and_counted(predict: Predict, damaged: Path, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "good.zarr")
    result = predict(damaged, tmp_path / "out.zarr", on_error="skip")
    assert list(result.skipped) == [1, 3]
    assert "1.png" in result.skipped[1]
    assert "7 x 9" in result.skipped[3]
    maps, good = arrays(tmp_path / "out.zarr"), arrays(tmp_path / "good.zarr")
    assert not maps["probability"][[1, 3]].any()
    np.testing.assert_array_equal(maps["probability"][[0, 2, 4]], good["probability"][[0, 2, 4]])
    about = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
    assert list(about["skipped"]) == ["1", "3"]


def test_pixels_that_are_not_finite(predict: Predict, slices: np.ndarray, tmp_path: Path) -> None:
    values = slices.astype(np.float32)
    values[2, 5, 6] = np.nan
    tifffile.imwrite(tmp_path / "float.tif", values)
    with pytest.raises(VolumeError, match=r"float\.tif, slice 2: 1 of 1920 pixels are NaN, infinite"):
        predict(tmp_path / "float.tif", tmp_path / "out.zarr", intensity_range=(0, 255))
    assert list(predict(tmp_path / "float.tif", tmp_path / "skip.zarr", on_error="skip").skipped) == [2]


@pytest.mark.parametrize(
    ("value", "message"),
    [(torch.nan, r"nan\.safetensors: .* NaN or infinite"), (3e38, "probability of slice 0 is not finite")],
)
def test_weights_that_diverged(weights: Path, images: Path, tmp_path: Path, value: float, message: str) -> None:
    cfg, model = load_model(weights)
    with torch.no_grad():
        next(model.parameters()).fill_(value)
    export_weights(tmp_path / "nan.safetensors", model.state_dict(), cfg.dump())
    with pytest.raises(ValueError, match=message):
        predict_volume(tmp_path / "nan.safetensors", images, tmp_path / "out.zarr", progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "out.png"}, r"'\.png' is not a format that is written"),
        ({"output": "out.tif", "ome_version": "0.5"}, r"out\.tif is no OME-Zarr 0\.5: name it \*\.zarr"),
        ({"ome_version": "0.6"}, r"OME-Zarr of version '0\.6' is not written; use 0\.4 or 0\.5"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"on_error": "ignore"}, "'stop' or 'skip'"),
        ({"volume": "nowhere.tif"}, r"nowhere\.tif does not exist"),
        ({"volume": "nobody_registered_this"}, "unknown data set"),
        ({"points": "outside.csv"}, r"slice 0: point 0 \(x=1000"),
    ],
)
def test_arguments_that_make_no_sense(
    predict: Predict, images: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    (tmp_path / "outside.csv").write_text("z,y,x\n0,1,999.5\n")
    given = {"volume": images, "output": "out.zarr", **arguments}
    for key in ("output", "points"):
        if key in given:
            given[key] = tmp_path / given[key]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict(**given)
    assert not list(tmp_path.glob("out.*"))


# ---- more than one process


@pytest.mark.long
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])  # who is killed is replaced: seconds
def test_dask_workers_give_the_same_also_when_one_dies(
    tmp_path: Path, rng: np.random.Generator, predict: Predict, kills: int
) -> None:
    images = tmp_path / "scan.tif"
    tifffile.imwrite(images, rng.integers(0, 256, (24, 40, 40), dtype=np.uint8))
    predict(images, tmp_path / "here.zarr")
    with dask_executor(workers=2) as executor:
        # With freed memory given back at once the network would take twice as long.
        assert not any(default_client().run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values())
        killed = []

        def kill_one(work: Any, items: Any, **options: Any) -> Any:
            """A worker that predicts, one that finds instances and one that writes them."""
            for number, result in enumerate(executor(work, items, **options)):
                if number == 0 and len(killed) < kills:
                    killed.append(next(iter(default_client().run(os.getpid).values())))
                    os.kill(killed[-1], signal.SIGKILL)
                yield result

        predict(images, tmp_path / "dask.zarr", executor=kill_one)
        assert len(set(killed)) == kills
    assert content(tmp_path / "dask.zarr") == content(tmp_path / "here.zarr")


# ---- one physical scale


PHYSICAL = ["INPUT.PIXEL_SIZE", "16"]


def test_a_voxel_size_or_a_diameter_is_the_scale_that_follows_from_it(
    predict: Predict, images: Path, slices: np.ndarray, tmp_path: Path
) -> None:
    """8 nm a pixel, or objects of 29 pixels, are half of what the network takes: 16 nm, or 14.5 pixels."""
    predict(images, tmp_path / "fixed.zarr", opts=["INPUT.SCALE", "0.5"])
    expected = arrays(tmp_path / "fixed.zarr")["probability"]
    imagej = tmp_path / "imagej.tif"
    metadata = {"unit": "nm", "spacing": 30, "axes": "ZYX"}
    tifffile.imwrite(imagej, slices, imagej=True, resolution=(1 / 8, 1 / 8), metadata=metadata)
    predict(images, tmp_path / "typed.zarr", opts=PHYSICAL, voxel_size=(30, 8, 8))
    predict(images, tmp_path / "diameter.zarr", opts=PHYSICAL, diameter=29)
    predict(imagej, tmp_path / "metadata.zarr", opts=PHYSICAL)
    for name in ("typed", "diameter", "metadata"):
        np.testing.assert_array_equal(arrays(tmp_path / f"{name}.zarr")["probability"], expected)
        attributes = zarr.open_group(str(tmp_path / f"{name}.zarr"), mode="r").attrs["prompt_das"]
        assert attributes["window"]["scale"] == 0.5
    assert open_volume(tmp_path / "metadata.zarr").voxel_size == pytest.approx((30, 8, 8))


def test_an_unknown_voxel_size_is_asked_for_before_anything_is_written(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"scan.tif: its voxel size is not known.*--voxel-size Z Y X.*--diameter D"):
        predict(images, tmp_path / "out.zarr", opts=PHYSICAL)
    with pytest.raises(ValueError, match=r"in nanometers; 0.03 0.008 0.008 looks like µm"):
        predict(images, tmp_path / "out.zarr", opts=PHYSICAL, voxel_size=(0.03, 0.008, 0.008))
    assert {path.name for path in tmp_path.iterdir()} == {"scan.tif"}


def test_objects_of_another_size_are_a_warning_that_names_both(
    predict: Predict, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opts = [*PHYSICAL, "INPUT.DIAMETER", "400"]
    predict(images, tmp_path / "out.zarr", opts=opts, voxel_size=(30, 16, 16), linked=False)
    (warning,) = [record.getMessage() for record in caplog.records if "typical diameter" in record.getMessage()]
    assert "scan.tif" in warning
    assert "about 400.0 of its pixels" in warning
