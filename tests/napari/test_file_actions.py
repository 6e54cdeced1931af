"""Points, labels, the whole volume and a project: from the viewer to files and back."""

from __future__ import annotations

from pathlib import Path

from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.point_files import read_clicks, read_points
from prompt_das_cli import main

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

import tifffile
import yaml
import zarr
from npe2 import PluginManager
from plugin_harness import CLICKED, PluginHarness, expected_volume, same_instances

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "synthetic_wda.yaml"


def test_points_are_saved_as_training_reads_them(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [2, 40, 10], [9, 40, 10]])
    ready.controller.files.save_points(tmp_path / "points.json")
    points = read_points(tmp_path / "points.json", num_slices=4, size=(70, 60))
    assert {z: xy.tolist() for z, xy in points.items()} == {0: [[30.5, 20.5]], 2: [[10.5, 40.5]]}


def test_points_that_cannot_be_saved(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.controller.files.save_points(tmp_path / "points.json")
    assert "Choose an image" in ready.notified["warning"][0]
    ready.segment(image)
    (tmp_path / "file").touch()
    ready.controller.files.save_points(tmp_path / "file" / "points.json")
    assert "could not be saved" in ready.notified["error"][0]


def test_saved_points_are_opened_again(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.segment(image, scale=(30, 8, 8))
    ready.prompts.add([[0, 20, 30], [2, 40, 10]])
    ready.negative_prompts.add([[0, 50, 20], [3, 9, 8]])
    ready.controller.files.save_points(tmp_path / "points.json")
    assert "4 points (2 of them negative) on 3 slices" in ready.notified["info"][-1]
    before, negative = ready.prompts.data.copy(), ready.negative_prompts.data.copy()
    ready.prompts.data = ready.negative_prompts.data = before[:0]
    ready.controller.files.open_points(tmp_path / "points.json")
    np.testing.assert_allclose(ready.prompts.data, before)
    np.testing.assert_allclose(ready.negative_prompts.data, negative)
    ready.controller.files.open_points(tmp_path / "none.json")
    assert "not found" in ready.notified["error"][0]


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_labels_are_saved(ready: PluginHarness, image: np.ndarray, tmp_path: Path, suffix: str) -> None:
    """What is in the layer, painted corrections too, in the smallest type that holds it."""
    ready.segment(image, scale=(30, 8, 8), units=("nm",) * 3)
    ready.instances.data[3, 5, 6] = 300
    path = tmp_path / f"labels{suffix}"
    ready.controller.files.save_labels(path)
    ready.work()
    saved = open_volume(path, "labels/instances/0" if suffix == ".zarr" else None)
    assert saved.dtype == np.uint16
    assert np.array_equal(np.stack([saved.read(z) for z in range(4)]), ready.instances.data)
    assert "saved to" in ready.notified["info"][-1]
    if suffix == ".zarr":
        (scale,) = zarr.open(path)["labels/instances"].attrs["multiscales"][0]["datasets"]
        assert scale["coordinateTransformations"][0]["scale"] == [30, 8, 8]


@pytest.mark.parametrize("name", ["labels.png", "missing/labels.tif/labels.tif"])
def test_labels_that_cannot_be_saved(ready: PluginHarness, image: np.ndarray, tmp_path: Path, name: str) -> None:
    ready.segment(image)
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "labels.tif").touch()
    ready.controller.files.save_labels(tmp_path / name)
    ready.work()
    assert len(ready.notified["error"]) == 1
    ready.prompts.add([0, 20, 30])
    ready.work()


@pytest.mark.parametrize("origin", ["file", "memory", "other data than the file"])
def test_the_whole_volume(
    ready: PluginHarness, weights: Path, image: np.ndarray, tiff: Path, tmp_path: Path, origin: str
) -> None:
    PluginManager.instance().discover()  # for napari's own readers
    layer = ready.viewer.open(tiff, plugin="napari")[0] if origin != "memory" else ready.viewer.add_image(image)
    if origin == "other data than the file":
        tifffile.imwrite(tiff, 255 - image, photometric="minisblack")
    ready.controller.choose(layer)
    ready.prompts.add(CLICKED)
    ready.work()
    ready.controller.files.segment_volume(tmp_path / "volume.zarr")
    ready.work()
    assert ready.notified["error"] == []
    tifffile.imwrite(tiff, image, photometric="minisblack")
    assert np.array_equal(np.asarray(ready.viewer.layers[-1].data), expected_volume(weights, tiff, tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"em.tif", "volume.zarr", "expected.zarr", "points.json"}


def test_negative_clicks_in_the_whole_volume(
    ready_for_clicks: PluginHarness, weights_of_clicks: Path, image: np.ndarray, tiff: Path, tmp_path: Path
) -> None:
    harness = ready_for_clicks
    harness.segment(image)
    harness.prompts.add(CLICKED[0])
    harness.negative_prompts.add(CLICKED[1])
    harness.work()
    harness.controller.files.segment_volume(tmp_path / "volume.zarr")
    harness.work()
    assert harness.notified["error"] == []
    result = np.asarray(harness.viewer.layers[-1].data)
    assert np.array_equal(result, expected_volume(weights_of_clicks, tiff, tmp_path, second_label=0))
    assert not np.array_equal(result, expected_volume(weights_of_clicks, tiff, tmp_path / "other"))


def test_a_volume_of_sixteen_bits_in_another_place(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    """As TIFF; the new layer lies where the image lies."""
    layer = ready.segment(image.astype(np.uint16) * 200, scale=(30, 8, 8), units=("nm",) * 3, translate=(0, 80, 0))
    ready.controller.files.segment_volume(tmp_path / "volume.tif")
    ready.work()
    assert ready.notified["error"] == []
    result = ready.viewer.layers[-1]
    assert result.data.shape == image.shape
    assert np.array_equal(result.scale, layer.scale)
    assert np.array_equal(result.translate, layer.translate)
    with tifffile.TiffFile(tmp_path / "volume.tif") as file:
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert numerator / denominator == 1 / 8
        assert file.imagej_metadata is not None
        assert (file.imagej_metadata["unit"], file.imagej_metadata["spacing"]) == ("nm", 30)


def test_a_result_is_not_replaced(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.segment(image)
    (tmp_path / "volume.zarr").mkdir()
    ready.controller.files.segment_volume(tmp_path / "volume.zarr")
    ready.work()
    assert "exists already" in ready.notified["error"][0]
    assert not list((tmp_path / "volume.zarr").iterdir())


@pytest.mark.parametrize("what", ["save_points", "save_labels", "segment_volume", "open_points"])
def test_without_an_image_there_is_nothing_to_do(ready: PluginHarness, tmp_path: Path, what: str) -> None:
    getattr(ready.controller.files, what)(tmp_path / "file.zarr")
    assert "Choose an image" in ready.notified["warning"][0]


def test_a_project_that_comes_to_nothing_leaves_nothing(
    ready: PluginHarness, image: np.ndarray, tmp_path: Path
) -> None:
    """And points that are in the folder already are not replaced."""
    ready.segment(image)
    ready.prompts.add(CLICKED)
    ready.controller.files.new_project(tmp_path / "project", CONFIG.with_name("synthetic_source.yaml"))
    ready.work()
    assert "does not adapt" in ready.notified["error"][0]
    assert not list((tmp_path / "project").iterdir())
    (tmp_path / "project" / "points.json").write_text("mine")
    ready.controller.files.new_project(tmp_path / "project", CONFIG)
    ready.work()
    assert "points.json exists already" in ready.notified["error"][1]
    assert (tmp_path / "project" / "points.json").read_text() == "mine"


@pytest.mark.parametrize("positive", [True, False])
def test_a_project_keeps_negative_clicks(
    ready: PluginHarness, image: np.ndarray, tmp_path: Path, positive: bool
) -> None:
    """But they are no points to learn from."""
    ready.segment(image, name="em")
    if positive:
        ready.prompts.add(CLICKED[0])
    ready.negative_prompts.add(CLICKED[1])
    ready.controller.files.new_project(tmp_path / "project", CONFIG)
    ready.work()
    assert ready.notified["error"] == []
    assert f"learns from the {int(positive)} positive points; the 1 negative" in ready.notified["info"][-2]
    clicks = read_clicks(tmp_path / "project" / "points.json")
    assert clicks[2].tolist() == [[10.5, 40.5, 0]]
    description = yaml.safe_load((tmp_path / "project" / "em.yaml").read_text())
    assert description.get("points") == ("points.json" if positive else None)


@pytest.mark.usefixtures("synthetic_data", "forget_new_names", "quick_setup", "quiet_logging")
def test_from_clicks_to_a_network_that_answers_clicks(
    ready: PluginHarness,
    tiny: list[str],
    image: np.ndarray,
    tmp_path: Path,
) -> None:
    """A project made by the plugin is trained by the command it tells, and its weights are opened in the plugin."""
    layer = ready.segment(image, name="my lab", scale=(30, 8, 8), units=("nm",) * 3)
    ready.prompts.add(CLICKED)
    ready.work()
    ready.controller.files.new_project(tmp_path / "project", CONFIG)
    ready.work()
    assert ready.notified["error"] == []
    assert "prompt-das train --config-file" in ready.notified["info"][-1]
    description = yaml.safe_load((tmp_path / "project" / "my_lab.yaml").read_text())
    assert description["points"] == "points.json"
    assert description["voxel_size"] == [30, 8, 8]

    options = [*tiny, "SOLVER.MAX_ITER", "2", "DOMAIN_ADAPT.BURN_IN_ITERS", "1"]
    command = ["train", "--config-file", str(tmp_path / "project" / "train.yaml"), *options]
    main(command)

    trained = tmp_path / "project" / "output" / "model_final.pth"
    ready.controller.open_weights(trained)
    ready.work()
    assert ready.notified["error"] == []
    assert ready.session.weights == trained
    expected = Predictor(trained).predict([(30.5, 20.5)], image=layer.data[0])
    assert same_instances(ready.instances.data[0], expected.instances)
