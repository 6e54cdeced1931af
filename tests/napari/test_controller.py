"""The plugin without a window: what happens in the viewer, and what the network makes of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

import dask.array
import tifffile
import zarr
from npe2 import PluginManager
from plugin_harness import WAIT, PluginHarness, same_instances


def test_a_click_is_answered_as_by_the_python_api(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    ready.segment(image)
    without = by_hand.predict([], image=image[0])
    assert same_instances(ready.instances.data[0], without.instances)

    ready.prompts.add([0, 20, 30])
    ready.work()
    answer = by_hand.predict([(30.5, 20.5)])
    assert same_instances(ready.instances.data[0], answer.instances)
    assert not np.array_equal(answer.instances, without.instances)


def test_instances_keep_their_colors(ready: PluginHarness, image: np.ndarray) -> None:
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


def test_labels_reach_the_network(
    ready_for_clicks: PluginHarness, clicks_by_hand: Predictor, image: np.ndarray
) -> None:
    """And the same place with another label is another request."""
    harness = ready_for_clicks
    harness.segment(image)
    harness.prompts.add([0, 20, 30])
    harness.work()
    harness.negative_prompts.add([0, 40, 10])
    harness.work()
    points = [(30.5, 20.5), (10.5, 40.5)]
    expected = clicks_by_hand.predict(points, [1, 0], image=image[0])
    assert same_instances(harness.instances.data[0], expected.instances)
    assert not np.array_equal(expected.instances, clicks_by_hand.predict(points).instances)

    harness.prompts.data = harness.negative_prompts.data[:0]
    harness.negative_prompts.data = [[0, 20, 30], [0, 40, 10]]
    harness.work()
    assert same_instances(harness.instances.data[0], clicks_by_hand.predict(points, [0, 0]).instances)
    assert harness.notified["warning"] == []


def test_a_negative_click_that_is_taken_back_leaves_nothing(
    ready_for_clicks: PluginHarness, clicks_by_hand: Predictor, image: np.ndarray
) -> None:
    harness = ready_for_clicks
    harness.segment(image)
    harness.prompts.add([0, 20, 30])
    harness.work()
    before = harness.instances.data[0].copy()
    harness.click((0, 40, 10), "Alt")
    harness.work()
    assert not np.array_equal(harness.instances.data[0] > 0, before > 0)
    harness.negative_prompts.data = [[0, 50, 33]]
    harness.work()
    moved = clicks_by_hand.predict([(30.5, 20.5), (33.5, 50.5)], [1, 0], image=image[0])
    assert same_instances(harness.instances.data[0], moved.instances)
    harness.negative_prompts.selected_data = {0}
    harness.negative_prompts.remove_selected()
    harness.work()
    assert same_instances(harness.instances.data[0], before)


def test_weights_without_negative_clicks_are_told_once(
    ready: PluginHarness, weights: Path, weights_of_clicks: Path, by_hand: Predictor, image: np.ndarray
) -> None:
    """Once for each network; what they leave out changes nothing."""
    ready.segment(image)
    ready.prompts.add([0, 20, 30])
    ready.work()
    assert ready.notified["warning"] == []
    for position in ([0, 40, 10], [0, 50, 20], [2, 40, 10]):
        ready.negative_prompts.add(position)
        ready.work()
    (warning,) = ready.notified["warning"]
    assert "trained without negative clicks" in warning
    assert same_instances(ready.instances.data[0], by_hand.predict([(30.5, 20.5)], image=image[0]).instances)
    for path, count in [(weights_of_clicks, 1), (weights, 2)]:
        ready.controller.open_weights(path)
        ready.work()
        assert len(ready.notified["warning"]) == count


def test_every_slice_has_its_own_points(ready: PluginHarness, by_hand: Predictor, image: np.ndarray) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [2, 40, 10]])
    ready.work()
    ready.viewer.dims.set_current_step(0, 2)
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([(30.5, 20.5)], image=image[0]).instances)
    assert same_instances(ready.instances.data[2], by_hand.predict([(10.5, 40.5)], image=image[2]).instances)
    assert not ready.instances.data[[1, 3]].any()


def test_a_slice_that_is_segmented_is_not_segmented_again(ready: PluginHarness, image: np.ndarray) -> None:
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
    assert ready.controller.image_sessions.slice_in_view == 2
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
    seen, gray = (image, None) if eight_bits else (wide, tuple(np.percentile(wide, (0.1, 99.9))))
    expected = by_hand.predict([(30.5, 20.5)], image=seen[0].astype(array[0].dtype), intensity_range=gray)
    assert same_instances(ready.instances.data[0], expected.instances)
    assert ready.notified["error"] == []


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


def test_points_outside_are_left_out_with_one_warning(
    ready: PluginHarness, by_hand: Predictor, image: np.ndarray
) -> None:
    ready.segment(image)
    ready.prompts.add([[0, 20, 30], [0, 900, 30], [17, 20, 30]])
    ready.work()
    assert same_instances(ready.instances.data[0], by_hand.predict([(30.5, 20.5)], image=image[0]).instances)
    ready.prompts.add([0, 40, 10])
    ready.work()
    assert [text for text in ready.notified["warning"] if "2 of 3 points" in text] == ready.notified["warning"]
    ready.negative_prompts.add([0, 20, 900])
    ready.work()
    assert "3 of 5 points" in ready.notified["warning"][-1]


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


def test_without_weights_nothing_happens(harness: PluginHarness, image: np.ndarray) -> None:
    harness.segment(image)
    harness.prompts.add([0, 20, 30])
    assert not harness.instances.data.any()
    assert harness.notified["error"] == []


def test_weights_that_come_later_are_used_at_once(harness: PluginHarness, weights: Path, image: np.ndarray) -> None:
    harness.segment(image)
    harness.controller.open_weights(weights)
    harness.work()
    assert harness.instances.data[0].any()


def test_nothing_comes_after_closing(ready: PluginHarness, image: np.ndarray) -> None:
    layer = ready.viewer.add_image(image)
    ready.controller.choose(layer)
    ready.controller.close()
    while not ready.messages.empty():
        ready.messages.get()
    ready.viewer.dims.set_current_step(0, 2)
    assert ready.messages.empty()


def test_a_model_is_opened_by_its_name(
    harness: PluginHarness, weights: Path, models_home: Path, image: np.ndarray
) -> None:
    shutil.copy(weights, models_home / "em-tiny.safetensors")
    harness.controller.open_weights("em-tiny")
    harness.work()
    assert harness.session.weights == models_home / "em-tiny.safetensors"
    assert harness.notified["info"] == ["em-tiny.safetensors is open"]
    harness.segment(image)
    assert harness.instances.data[0].any()


# ---- one physical scale


@pytest.fixture
def physical(harness: PluginHarness, weights_of_physical_scale: Path) -> PluginHarness:
    """With weights open that take pixels of 16 nm, and objects of 14.5 of them."""
    harness.controller.open_weights(weights_of_physical_scale)
    harness.work()
    return harness


def test_an_image_is_seen_at_the_scale_of_its_layer(
    physical: PluginHarness, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    physical.segment(image, scale=(30, 8, 8), units=("nm",) * 3)
    answer = Predictor(weights_of_physical_scale, pixel_size=8).predict([], image=image[0])
    assert physical.controller.asks_for_size
    assert physical.controller.problem == ""
    assert same_instances(physical.instances.data[0], answer.instances)
    layer = physical.controller.image_sessions.current.image
    layer.scale = (30, 4, 4)
    physical.controller.update()
    physical.work()
    answer = Predictor(weights_of_physical_scale, pixel_size=4).predict([], image=image[0])
    assert same_instances(physical.instances.data[0], answer.instances)


def test_a_layer_without_units_waits_for_a_diameter(
    physical: PluginHarness, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    physical.segment(image, name="em")
    assert physical.controller.problem.startswith("How large are the pixels of 'em'?")
    assert not physical.instances.data[0].any()
    physical.controller.options.set_diameter(29)
    physical.work()
    assert physical.controller.problem == ""
    answer = Predictor(weights_of_physical_scale, diameter=29).predict([], image=image[0])
    assert same_instances(physical.instances.data[0], answer.instances)
    physical.controller.options.set_diameter(1)
    assert "a diameter of 1 pixels would make 14.5" in physical.controller.problem


def test_threshold_and_smallest_size_change_what_is_shown(
    ready: PluginHarness, weights: Path, image: np.ndarray, tmp_path: Path
) -> None:
    """Both hold for the slice in view and for the whole volume."""
    ready.segment(image)
    answer = Predictor(weights).predict([], image=image[0])
    low, middle = np.quantile(answer.probability, (0.3, 0.5))
    ready.controller.options.set_threshold(float(low))
    ready.controller.options.set_min_size(0)
    ready.work()
    many = answer.instances_above(low, 0)
    assert same_instances(ready.instances.data[0], many)
    largest = int(np.bincount(many.ravel())[1:].max())
    ready.controller.options.set_min_size(largest)
    ready.work()
    assert not ready.instances.data[0].any()
    ready.controller.options.set_threshold(float(middle))
    ready.controller.options.set_min_size(3)
    ready.work()
    ready.controller.files.segment_volume(tmp_path / "out.zarr")
    ready.work()
    labels = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")["labels/instances/0"][:]
    assert labels.any()
    attributes = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
    assert (attributes["threshold"], attributes["min_size"]) == (float(middle), 3)


def test_a_flat_image_needs_no_thickness(
    physical: PluginHarness, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    physical.segment(image[0], scale=(0.008, 0.008), units=("um",) * 2)
    answer = Predictor(weights_of_physical_scale, pixel_size=8).predict([], image=image[0])
    assert same_instances(physical.instances.data, answer.instances)


def test_the_whole_volume_has_the_scale_of_the_view(physical: PluginHarness, image: np.ndarray, tmp_path: Path) -> None:
    physical.segment(image)
    physical.controller.options.set_diameter(29)
    physical.work()
    physical.controller.files.segment_volume(tmp_path / "out.zarr")
    physical.work()
    assert physical.notified["error"] == []
    attributes = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
    assert attributes["window"]["scale"] == 0.5


def test_the_metadata_of_the_file_do_for_a_layer_without_units(
    physical: PluginHarness, weights_of_physical_scale: Path, image: np.ndarray, tmp_path: Path
) -> None:
    """And for its whole volume, also where the layer is copied to a file of its own."""
    path, metadata = tmp_path / "em.tif", {"unit": "um", "spacing": 0.03, "axes": "ZYX"}
    tifffile.imwrite(path, image, imagej=True, resolution=(125, 125), metadata=metadata)
    PluginManager.instance().discover()  # for napari's own readers
    layer = physical.viewer.open(path, plugin="napari")[0]
    tifffile.imwrite(path, 255 - image, imagej=True, resolution=(125, 125), metadata=metadata)
    physical.viewer.dims.set_current_step(0, 0)
    physical.controller.choose(layer)
    physical.work()
    answer = Predictor(weights_of_physical_scale, pixel_size=8).predict([], image=image[0])
    assert same_instances(physical.instances.data[0], answer.instances)
    physical.controller.files.segment_volume(tmp_path / "out.zarr")
    physical.work()
    assert physical.notified["error"] == []
    attributes = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
    assert attributes["window"]["scale"] == 0.5
