"""The plugin without a window: what happens in the viewer's model, and what the network makes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.napari.session import Message, Session
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.point_files import read_points, write_points
from prompt_das_cli import main

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari.controller import Controller

import dask.array
import tifffile
import yaml
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from npe2 import PluginManager

WAIT = 60  # seconds at most; an answer of the tiny network takes milliseconds


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def same_instances(one: np.ndarray, other: np.ndarray) -> bool:
    """Whatever their ids: the plugin keeps ids, and so colours, from answer to answer."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] and np.array_equal(one > 0, other > 0)


class PluginHarness:
    """A viewer without a window, with the plugin at work in it.

    Attributes:
        told: what the user was told, by kind.
    """

    def __init__(self) -> None:
        self.viewer = ViewerModel()
        self.messages: Queue[Message] = Queue()
        self.session = Session(self.messages.put)
        self.notified: dict[str, list[str]] = {"error": [], "warning": [], "info": []}
        self.controller = Controller(
            self.viewer,
            self.session,
            notify_error=self.notified["error"].append,
            notify_warning=self.notified["warning"].append,
            notify=self.notified["info"].append,
        )

    def work(self) -> None:
        """Until nothing is under way."""
        while self.controller.progress is not None or self.controller.task_progress is not None:
            self.controller.receive(self.messages.get(timeout=WAIT))

    def segment(self, array: object, **kwargs: object) -> Image:
        """Add an image, choose it, and wait for the answer to its first slice."""
        image = self.viewer.add_image(array, **kwargs)
        self.viewer.dims.set_current_step(0, 0)  # napari begins in the middle
        self.controller.choose(image)
        self.work()
        return image

    @property
    def prompts(self) -> Points:
        assert self.controller.image_session is not None
        return self.controller.image_session.prompts

    @property
    def instances(self) -> Labels:
        assert self.controller.image_session is not None
        return self.controller.image_session.instances

    @property
    def centers(self) -> Points:
        assert self.controller.image_session is not None
        assert self.controller.image_session.centers is not None
        return self.controller.image_session.centers


@pytest.fixture
def bench() -> Iterator[PluginHarness]:
    bench = PluginHarness()
    yield bench
    bench.controller.close()


@pytest.fixture
def ready(bench: PluginHarness, weights: Path) -> PluginHarness:
    """With weights open."""
    bench.controller.open_weights(weights)
    bench.work()
    return bench


def test_a_click_is_answered_as_by_the_python_api(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    ready.segment(image)
    without = by_hand.predict([], image=image[0])
    assert same_instances(ready.instances.data[0], without.instances)

    ready.prompts.add([0, 20, 30])
    ready.work()
    answer = by_hand.predict([(30.5, 20.5)])
    assert same_instances(ready.instances.data[0], answer.instances)
    assert not np.array_equal(answer.instances, without.instances)


def test_instances_keep_their_colours(ready: PluginHarness, image: np.ndarray) -> None:
    """What a click does not touch keeps its id."""
    ready.segment(image)
    before = ready.instances.data[0].copy()
    ready.prompts.add([0, 20, 30])
    ready.work()
    after = ready.instances.data[0]
    untouched = [one for one in np.unique(before)[1:] if np.array_equal(before == one, (after > 0) & (before == one))]
    kept = [one for one in untouched if (after[before == one] == one).all()]
    assert len(kept) > len(untouched) / 2


def test_points_are_dragged_and_deleted(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [0, 40, 10]])
    ready.work()
    ready.prompts.selected_data = {0}
    ready.prompts._move([0], [0, 50, 33])  # what dragging calls
    ready.prompts.events.data(
        value=ready.prompts.data, action="changed", data_indices=(0,), vertex_indices=((),)
    )  # what letting go of the mouse tells
    ready.work()
    expected = by_hand.predict(ready.prompts.data[:, :0:-1] + 0.5, image=image[0])
    assert same_instances(ready.instances.data[0], expected.instances)
    ready.prompts.selected_data = {0, 1}
    ready.prompts.remove_selected()
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([]).instances)


def test_every_slice_has_its_own_points(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [2, 40, 10]])
    ready.work()
    ready.viewer.dims.set_current_step(0, 2)
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([(30.5, 20.5)], image=image[0]).instances)
    assert same_instances(ready.instances.data[2], by_hand.predict([(10.5, 40.5)], image=image[2]).instances)
    assert not ready.instances.data[[1, 3]].any()


def test_a_slice_that_is_answered_is_not_asked_again(ready: PluginHarness, image: np.ndarray) -> None:
    """So what was painted over by hand stays when one steps to the next slice and back."""
    ready.segment(image)
    ready.instances.data[0] = 99
    ready.viewer.dims.set_current_step(0, 1)
    ready.work()
    ready.viewer.dims.set_current_step(0, 0)
    assert ready.controller.progress is None
    assert (ready.instances.data[0] == 99).all()


@pytest.mark.parametrize("place", [{"scale": (30, 8, 8), "translate": (60, -16, 100)}, {"rotate": 90}])
def test_the_place_of_the_layer_counts(
    ready: PluginHarness, by_hand: Predictor, image: np.ndarray, place: dict[str, object]
) -> None:
    """Points of a layer that lies elsewhere than the image count where they are seen."""
    layer = ready.segment(image, **place)
    ready.viewer.dims.set_point(0, layer.data_to_world((2, 0, 0))[0])
    assert ready.controller.slice_in_view == 2
    ready.prompts.add([2, 20, 30])
    ready.work()
    expected = by_hand.predict([(30.5, 20.5)], image=image[2]).instances
    assert same_instances(ready.instances.data[2], expected)
    np.testing.assert_allclose(ready.instances.data_to_world((2, 20, 30)), layer.data_to_world((2, 20, 30)))


def test_one_image_without_a_stack(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    ready.segment(image[1])
    ready.prompts.add([20, 30])
    ready.work()
    assert same_instances(ready.instances.data, by_hand.predict([(30.5, 20.5)], image=image[1]).instances)


@pytest.mark.parametrize("kind", ["dask", "zarr", "multi-scale", "uint16", "float32"])
def test_layers_of_every_kind(ready: PluginHarness, by_hand: Predictor, image: np.ndarray, kind: str) -> None:
    wide = image.astype(np.uint16) * 100 + 1000
    array = {
        "dask": lambda: dask.array.from_array(image, chunks=(1, 32, 32)),
        "zarr": lambda: zarr.array(image, chunks=(1, 32, 32)),
        "multi-scale": lambda: [image, image[:, ::2, ::2]],
        "uint16": lambda: wide,
        "float32": lambda: wide.astype(np.float32),
    }[kind]()
    ready.segment(array, multiscale=kind == "multi-scale")
    ready.prompts.add([0, 20, 30])
    ready.work()
    eight_bits = kind not in ("uint16", "float32")
    seen, grey = (image, None) if eight_bits else (wide, tuple(np.percentile(wide, (0.1, 99.9))))
    expected = by_hand.predict([(30.5, 20.5)], image=seen[0].astype(array[0].dtype), intensity_range=grey)
    assert same_instances(ready.instances.data[0], expected.instances)
    assert ready.notified["error"] == []


# ---- suggestions


@pytest.fixture
def suggesting(ready: PluginHarness, image: np.ndarray) -> PluginHarness:
    ready.segment(image)
    ready.controller.set_suggest(True)
    ready.work()
    return ready


def test_suggestions_are_predicted_centres(suggesting: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    """The surest one is selected."""
    centers = by_hand.predict([], image=image[0], centers=True).centers
    assert centers is not None
    assert len(centers.points) > 3
    np.testing.assert_allclose(suggesting.centers.data[:, :0:-1] + 0.5, centers.points, atol=1e-4)
    assert suggesting.centers.selected_data == {0}


def test_an_accepted_suggestion_becomes_a_prompt(
    suggesting: PluginHarness, by_hand: Predictor, image: np.ndarray
) -> None:
    place = suggesting.centers.data[0].copy()
    suggesting.controller.accept()
    suggesting.work()
    np.testing.assert_allclose(suggesting.prompts.data, [place])
    assert not (suggesting.centers.data == place).all(axis=1).any()
    expected = by_hand.predict([place[:0:-1] + 0.5], image=image[0])
    assert same_instances(suggesting.instances.data[0], expected.instances)


@pytest.mark.parametrize("how", ["reject", "delete"])
def test_a_rejected_suggestion_does_not_come_back(suggesting: PluginHarness, how: str) -> None:
    place = suggesting.centers.data[0].copy()
    if how == "reject":
        suggesting.controller.reject()
    else:
        suggesting.centers.selected_data = {0}
        suggesting.centers.remove_selected()
    suggesting.prompts.add([0, 69, 59])
    suggesting.work()
    assert len(suggesting.centers.data) > 0
    distance = np.linalg.norm(suggesting.centers.data - place, axis=1)
    assert distance.min() > 1
    assert len(suggesting.prompts.data) == 1


def test_suggestions_of_other_slices_stay(suggesting: PluginHarness) -> None:
    first = len(suggesting.centers.data)
    suggesting.viewer.dims.set_current_step(0, 1)
    suggesting.work()
    z = suggesting.centers.data[:, 0]
    assert (z == 0).sum() == first
    assert (z == 1).sum() > 0
    (selected,) = suggesting.centers.selected_data
    assert suggesting.centers.data[selected, 0] == 1


def test_the_layer_of_suggestions_may_be_deleted(suggesting: PluginHarness) -> None:
    suggesting.viewer.layers.remove(suggesting.centers)
    suggesting.controller.accept()
    suggesting.prompts.add([0, 69, 59])
    suggesting.work()
    assert len(suggesting.centers.data) > 0


# ---- points on the disk


def test_points_are_saved_as_training_reads_them(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [2, 40, 10], [9, 40, 10]])
    ready.controller.save_points(tmp_path / "points.json")
    points = read_points(tmp_path / "points.json", num_slices=4, size=(70, 60))
    assert {z: xy.tolist() for z, xy in points.items()} == {0: [[30.5, 20.5]], 2: [[10.5, 40.5]]}


def test_points_that_cannot_be_saved(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.controller.save_points(tmp_path / "points.json")
    assert "Choose an image" in ready.notified["warning"][0]
    ready.segment(image)
    (tmp_path / "file").touch()
    ready.controller.save_points(tmp_path / "file" / "points.json")
    assert "could not be saved" in ready.notified["error"][0]


def test_saved_points_are_opened_again(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.segment(image, scale=(30, 8, 8))
    ready.prompts.add([[0, 20, 30], [2, 40, 10]])
    ready.controller.save_points(tmp_path / "points.json")
    before = ready.prompts.data.copy()
    ready.prompts.data = before[:0]
    ready.controller.open_points(tmp_path / "points.json")
    np.testing.assert_allclose(ready.prompts.data, before)
    ready.controller.open_points(tmp_path / "none.json")
    assert "not found" in ready.notified["error"][0]


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_labels_are_saved(ready: PluginHarness, image: np.ndarray, tmp_path: Path, suffix: str) -> None:
    """What is in the layer, painted corrections too, in the smallest type that holds it."""
    ready.segment(image, scale=(30, 8, 8), units=("nm",) * 3)
    ready.instances.data[3, 5, 6] = 300
    path = tmp_path / f"labels{suffix}"
    ready.controller.save_labels(path)
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
    ready.controller.save_labels(tmp_path / name)
    ready.work()
    assert len(ready.notified["error"]) == 1
    ready.prompts.add([0, 20, 30])
    ready.work()


# ---- the whole volume


@pytest.fixture
def tiff(image: np.ndarray, tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "em.tif", image, photometric="minisblack")
    return tmp_path / "em.tif"


def expected_volume(weights: Path, volume: Path, folder: Path) -> np.ndarray:
    """By the Python API, with the prompts of `clicked`."""
    points = {0: np.array([[30.5, 20.5]]), 2: np.array([[10.5, 40.5]])}
    write_points(folder / "points.json", points)
    source = VolumeSource(volume, points=folder / "points.json")
    predict_volume(weights, source, folder / "expected.zarr", progress=False)
    return np.asarray(zarr.open(folder / "expected.zarr", mode="r")["labels/instances/0"])


CLICKED = [[0, 20, 30], [2, 40, 10]]


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
    ready.controller.segment_volume(tmp_path / "volume.zarr")
    ready.work()
    assert ready.notified["error"] == []
    tifffile.imwrite(tiff, image, photometric="minisblack")
    assert np.array_equal(np.asarray(ready.viewer.layers[-1].data), expected_volume(weights, tiff, tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"em.tif", "volume.zarr", "expected.zarr", "points.json"}


def test_a_volume_of_sixteen_bits_in_another_place(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    """As TIFF; the new layer lies where the image lies."""
    layer = ready.segment(image.astype(np.uint16) * 200, scale=(30, 8, 8), units=("nm",) * 3, translate=(0, 80, 0))
    ready.controller.segment_volume(tmp_path / "volume.tif")
    ready.work()
    assert ready.notified["error"] == []
    result = ready.viewer.layers[-1]
    assert result.data.shape == image.shape
    assert np.array_equal(result.scale, layer.scale)
    assert np.array_equal(result.translate, layer.translate)
    with tifffile.TiffFile(tmp_path / "volume.tif") as file:
        assert file.pages[0].tags["XResolution"].value[0] / file.pages[0].tags["XResolution"].value[1] == 1e7 / 8


def test_cancelled_and_resumed(
    ready: PluginHarness, weights: Path, image: np.ndarray, tiff: Path, tmp_path: Path
) -> None:
    ready.segment(image)
    ready.prompts.add(CLICKED)
    ready.work()
    ready.controller.segment_volume(tmp_path / "volume.zarr")
    while ready.controller.task_progress[0] < 200:  # two slices are done
        ready.controller.receive(ready.messages.get(timeout=WAIT))
    ready.controller.cancel_task()
    assert ready.controller.task_progress is None
    until(lambda: not list(tmp_path.glob("*.points.json")))
    assert not (tmp_path / "volume.zarr").exists()
    assert "cancelled" in ready.notified["info"][-1]

    ready.controller.segment_volume(tmp_path / "volume.zarr")
    totals = set()
    while ready.controller.task_progress is not None:
        totals.add(ready.controller.task_progress[1])
        ready.controller.receive(ready.messages.get(timeout=WAIT))
    assert max(totals) <= 200  # two slices were left
    assert ready.notified["error"] == []
    assert np.array_equal(np.asarray(ready.viewer.layers[-1].data), expected_volume(weights, tiff, tmp_path))


def test_only_one_long_work_at_a_time(ready: PluginHarness, weights: Path, image: np.ndarray, tmp_path: Path) -> None:
    """But clicks are answered meanwhile."""
    ready.segment(image)
    ready.controller.segment_volume(tmp_path / "volume.zarr")
    ready.controller.save_labels(tmp_path / "labels.tif")
    ready.controller.open_weights(weights)
    assert ["under way" in text for text in ready.notified["warning"]] == [True, True]
    ready.prompts.add([0, 20, 30])
    ready.work()
    assert (tmp_path / "volume.zarr").is_dir()
    assert 0 in ready.controller.image_session.responded


def test_a_result_is_not_replaced(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    ready.segment(image)
    (tmp_path / "volume.zarr").mkdir()
    ready.controller.segment_volume(tmp_path / "volume.zarr")
    ready.work()
    assert "exists already" in ready.notified["error"][0]
    assert not list((tmp_path / "volume.zarr").iterdir())


@pytest.mark.parametrize("what", ["save_points", "save_labels", "segment_volume", "open_points"])
def test_without_an_image_there_is_nothing_to_do(ready: PluginHarness, tmp_path: Path, what: str) -> None:
    getattr(ready.controller, what)(tmp_path / "file.zarr")
    assert "Choose an image" in ready.notified["warning"][0]


# ---- the loop: from clicks to new weights

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "synthetic_wda.yaml"


def test_a_project_that_comes_to_nothing_leaves_nothing(
    ready: PluginHarness, image: np.ndarray, tmp_path: Path
) -> None:
    """And points that are in the folder already are not replaced."""
    ready.segment(image)
    ready.prompts.add(CLICKED)
    ready.controller.new_project(tmp_path / "project", CONFIG.with_name("synthetic_source.yaml"))
    ready.work()
    assert "does not adapt" in ready.notified["error"][0]
    assert not list((tmp_path / "project").iterdir())
    (tmp_path / "project" / "points.json").write_text("mine")
    ready.controller.new_project(tmp_path / "project", CONFIG)
    ready.work()
    assert "points.json exists already" in ready.notified["error"][1]
    assert (tmp_path / "project" / "points.json").read_text() == "mine"


@pytest.mark.usefixtures("synthetic_data", "forget_new_names", "quiet_logging")
def test_from_clicks_to_a_network_that_answers_clicks(
    ready: PluginHarness,
    tiny: list[str],
    image: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A project made by the plugin is trained by the command it tells, and its weights are opened in the plugin."""
    layer = ready.segment(image, name="my lab", scale=(30, 8, 8), units=("nm",) * 3)
    ready.prompts.add(CLICKED)
    ready.work()
    ready.controller.new_project(tmp_path / "project", CONFIG)
    ready.work()
    assert ready.notified["error"] == []
    assert "prompt-das train --config-file" in ready.notified["info"][-1]
    description = yaml.safe_load((tmp_path / "project" / "my_lab.yaml").read_text())
    assert description["points"] == "points.json"
    assert description["voxel_size"] == [30, 8, 8]

    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", lambda: "")
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


# ---- bad input


def test_weights_of_another_model(ready: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    """The network of before stays."""
    before = ready.session.predictor
    (tmp_path / "other.pth").write_bytes(b"not a network")
    for path, says in [(tmp_path / "other.pth", "other.pth"), (tmp_path / "missing.pth", "no weights at")]:
        ready.controller.open_weights(path)
        ready.work()
        assert says in ready.notified["error"][-1]
    assert ready.session.predictor is before
    ready.segment(image)
    assert ready.instances.data[0].any()


@pytest.mark.parametrize(
    ("shape", "kwargs", "says"),
    [((40, 40, 3), {"rgb": True}, "in colour"), ((40, 40, 3), {"rgb": False}, "colours"), ((2, 2, 9, 9), {}, "4 dim")],
)
def test_colours_are_refused(ready: PluginHarness, shape: tuple, kwargs: dict, says: str) -> None:
    ready.segment(np.zeros(shape, np.uint8), **kwargs)
    assert says in ready.notified["error"][0]
    assert ready.controller.image_session is None
    assert len(ready.viewer.layers) == 1


def test_points_outside_are_left_out_and_the_user_is_told_once(
    ready: PluginHarness, by_hand: Predictor, image: np.ndarray
) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [0, 900, 30], [17, 20, 30]])
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([(30.5, 20.5)], image=image[0]).instances)
    ready.prompts.add([0, 40, 10])
    ready.work()
    assert [text for text in ready.notified["warning"] if "2 of 3 points" in text] == ready.notified["warning"]


def test_beside_the_volume_nothing_is_asked(ready: PluginHarness, image: np.ndarray) -> None:
    """Another layer makes the viewer's range longer than the image."""
    ready.segment(image)
    ready.viewer.add_image(np.zeros((9, 9, 9), np.uint8))
    ready.viewer.dims.set_current_step(0, 8)
    assert ready.controller.slice_in_view is None
    assert ready.controller.progress is None
    assert ready.notified == {"error": [], "warning": [], "info": ready.notified["info"]}


@pytest.mark.parametrize("which", ["image", "prompts", "instances"])
def test_a_layer_is_deleted_while_the_network_works(ready: PluginHarness, image: np.ndarray, which: str) -> None:
    layer = ready.segment(image)
    ready.prompts.add([0, 20, 30])
    gone = {"image": layer, "prompts": ready.prompts, "instances": ready.instances}[which]
    ready.viewer.layers.remove(gone)
    assert ready.controller.image_session is None
    ready.work()
    if which != "image":
        ready.controller.choose(layer)
        ready.work()
        assert ready.instances in ready.viewer.layers
        assert ready.instances.data[0].any()
    assert ready.notified["error"] == []


def test_the_newest_click_wins(
    ready: PluginHarness, by_hand: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clicks come while the network is busy with the first; only the last answer is shown, and nobody waits."""
    layer = ready.viewer.add_image(image)
    ready.viewer.dims.set_current_step(0, 0)
    assert ready.session.predictor is not None
    model, go_on = ready.session.predictor._model, threading.Event()
    encode: Callable = model.encode

    def slow(windows: object) -> object:
        assert go_on.wait(WAIT)
        return encode(windows)

    monkeypatch.setattr(model, "encode", slow)
    ready.controller.choose(layer)
    for i in range(1, 6):
        ready.prompts.add([0, 10 * i, 10 * i])
    assert not ready.instances.data.any()
    go_on.set()
    ready.work()
    points = [(10 * i + 0.5, 10 * i + 0.5) for i in range(1, 6)]
    assert same_instances(ready.instances.data[0], by_hand.predict(points, image=image[0]).instances)


def test_an_answer_that_comes_too_late_is_not_shown(ready: PluginHarness, image: np.ndarray) -> None:
    """The viewer has gone on to another slice before it took the answer out of the mailbox."""
    ready.segment(image)
    before = ready.instances.data[0].copy()
    ready.prompts.add([0, 20, 30])
    letters = []
    while not letters or not getattr(letters[-1], "complete", False):
        letters.append(ready.messages.get(timeout=WAIT))
    ready.viewer.dims.set_current_step(0, 1)
    for letter in letters:
        ready.controller.receive(letter)
    assert same_instances(ready.instances.data[0], before)


def test_a_slice_that_cannot_be_read(ready: PluginHarness, image: np.ndarray) -> None:
    there = True

    def read(block: np.ndarray) -> np.ndarray:
        if not there:
            raise OSError("the disk is gone")
        return block

    ready.segment(dask.array.from_array(image, chunks=(1, 70, 60)).map_blocks(read, dtype=np.uint8), cache=False)
    there = False
    ready.prompts.add([0, 20, 30])
    ready.work()
    assert "the disk is gone" in ready.notified["error"][0]
    there = True
    ready.prompts.add([0, 30, 30])
    ready.work()
    assert len(ready.notified["error"]) == 1


def test_the_data_of_the_layer_are_replaced(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    layer, prompts = ready.segment(image), ready.prompts
    layer.data = image[::-1]
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([], image=image[3]).instances)
    assert ready.prompts is prompts
    layer.data = image[:, :40, :50]  # too small for the layers of before
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([], image=image[0, :40, :50]).instances)
    assert ready.notified["error"] == []


def test_the_layer_of_instances_is_changed_to_something_else(ready: PluginHarness, image: np.ndarray) -> None:
    ready.segment(image)
    ready.instances.data = np.zeros((2, 9, 9), int)
    ready.prompts.add([0, 20, 30])
    ready.work()
    assert "has another shape now" in ready.notified["error"][0]


def test_without_weights_nothing_happens(bench: PluginHarness, image: np.ndarray) -> None:
    bench.segment(image)
    bench.prompts.add([0, 20, 30])
    assert not bench.instances.data.any()
    assert bench.notified["error"] == []


def test_weights_that_come_later_are_used_at_once(bench: PluginHarness, weights: Path, image: np.ndarray) -> None:
    bench.segment(image)
    bench.controller.open_weights(weights)
    bench.work()
    assert bench.instances.data[0].any()


def test_nothing_comes_after_closing(ready: PluginHarness, image: np.ndarray) -> None:
    layer = ready.viewer.add_image(image)
    ready.controller.choose(layer)
    ready.controller.close()
    while not ready.messages.empty():
        ready.messages.get()
    ready.viewer.dims.set_current_step(0, 2)
    assert ready.messages.empty()
