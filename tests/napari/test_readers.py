"""Our files are opened and saved by napari's own means; those of others are left alone."""

from __future__ import annotations

from pathlib import Path

import prompt_das
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.volumes.point_files import read_clicks, write_points

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari.readers import get_points_reader, get_result_reader

import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from npe2 import PluginManager, PluginManifest
from plugin_harness import PluginHarness

CLICKS = {1: np.array([[30.5, 20.5, 1], [8, 9, 0]], np.float32), 3: np.array([[10.5, 40.5, 1]], np.float32)}


@pytest.fixture
def viewer() -> ViewerModel:
    """A viewer that knows the plugin, also in an environment that was installed before there was one."""
    manager = PluginManager.instance()
    manager.discover()
    if "prompt_das" not in manager:
        manager.register(PluginManifest.from_file(Path(prompt_das.__file__).with_name("napari.yaml")))
    return ViewerModel()


@pytest.fixture
def result(weights: Path, tiff: Path, tmp_path: Path) -> Path:
    source = VolumeSource(tiff, voxel_size=(30.0, 8.0, 8.0))
    predict_volume(weights, source, tmp_path / "segmented.zarr", progress=False)
    return tmp_path / "segmented.zarr"


@pytest.fixture
def points(tmp_path: Path) -> Path:
    write_points(tmp_path / "points.json", CLICKS)
    return tmp_path / "points.json"


def test_a_result_opens_as_its_layers_at_its_place(viewer: ViewerModel, result: Path) -> None:
    layers = viewer.open(str(result), plugin="prompt_das")
    assert [layer.name for layer in layers] == [
        "segmented probability",
        "segmented density",
        "segmented instances",
    ]
    probability, _, labels = layers
    assert isinstance(labels, Labels)
    assert isinstance(probability, Image)
    assert [layer.visible for layer in layers] == [False, False, True]
    assert all(tuple(layer.scale) == (30, 8, 8) and str(layer.units[0]) == "nanometer" for layer in layers)
    stored = zarr.open_group(str(result), mode="r")["labels/instances/0"][:]
    assert stored.any()
    shown = labels.data[0] if labels.multiscale else labels.data
    np.testing.assert_array_equal(np.asarray(shown), stored)


def test_points_open_without_a_question(viewer: ViewerModel, points: Path) -> None:
    prompts, negative = viewer.open(str(points), plugin=None)
    assert isinstance(prompts, Points)
    assert (prompts.name, negative.name) == ("points prompts", "points negative prompts")
    np.testing.assert_allclose(prompts.data, [[1, 20, 30], [3, 40, 10]])
    np.testing.assert_allclose(negative.data, [[1, 8.5, 7.5]])
    assert prompts.current_symbol != negative.current_symbol


def test_points_are_saved_with_their_labels(viewer: ViewerModel, points: Path, tmp_path: Path) -> None:
    viewer.open(str(points), plugin=None)
    saved = viewer.layers.save(str(tmp_path / "again.json"), plugin="prompt_das")
    assert saved == [str(tmp_path / "again.json")]
    again = read_clicks(tmp_path / "again.json")
    assert again.keys() == CLICKS.keys()
    for z, clicks in CLICKS.items():
        np.testing.assert_array_equal(again[z], clicks)


def test_prompts_of_the_plugin_are_saved_by_napari(ready: PluginHarness, viewer: ViewerModel, tmp_path: Path) -> None:
    ready.segment(np.zeros((4, 70, 60), np.uint8), scale=(30, 8, 8))
    ready.prompts.add([1, 20, 30])
    ready.negative_prompts.add([1, 9, 8])
    ready.work()
    ready.viewer.layers.selection = {ready.prompts, ready.negative_prompts}
    ready.viewer.layers.save(str(tmp_path / "points.json"), selected=True, plugin="prompt_das")
    clicks = read_clicks(tmp_path / "points.json")
    np.testing.assert_array_equal(sorted(clicks[1].tolist()), [[8.5, 9.5, 0], [30.5, 20.5, 1]])


def test_labels_are_saved_as_ome_zarr_and_open_again(viewer: ViewerModel, tmp_path: Path) -> None:
    ids = np.zeros((3, 20, 30), np.int32)
    ids[1, 5:9, 5:9] = 7
    viewer.add_labels(ids, name="mine", scale=(40, 5, 5), units=("nm",) * 3)
    (saved,) = viewer.layers.save(str(tmp_path / "mine.zarr"), plugin="prompt_das")
    (labels,) = viewer.open(saved, plugin="prompt_das")
    assert isinstance(labels, Labels)
    assert tuple(labels.scale) == (40, 5, 5)
    shown = labels.data[0] if labels.multiscale else labels.data
    np.testing.assert_array_equal(np.asarray(shown), ids)


def test_what_is_not_ours_is_left_to_others(tmp_path: Path, result: Path, points: Path) -> None:
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w", zarr_format=2).create_array("a", shape=(2,), dtype="i4")
    (tmp_path / "other.json").write_text('{"format": "someone/else"}')
    (tmp_path / "list.json").write_text("[1, 2, 3]")
    (tmp_path / "slices").mkdir()
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / ".zattrs").write_text("{")
    for name in ("other.zarr", "slices", "broken.zarr", "missing.zarr"):
        assert get_result_reader(str(tmp_path / name)) is None
    for name in ("other.json", "list.json", "missing.json"):
        assert get_points_reader(str(tmp_path / name)) is None
    assert get_result_reader([str(result), str(result)]) is None  # a stack of files
    assert get_result_reader(str(result)) is not None
    assert get_points_reader(str(points)) is not None
