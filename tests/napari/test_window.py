"""The plugin in a real window on a virtual screen: found by napari, clicked with the mouse."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prompt_das
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.napari import samples

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from napari.utils.notifications import notification_manager
from npe2 import PluginManager, PluginManifest
from plugin_harness import same_instances

pytestmark = pytest.mark.usefixtures("screen")
WAIT = 60  # seconds at most


MANIFEST = Path(prompt_das.__file__).with_name("napari.yaml")


@pytest.fixture(scope="module")
def plugin() -> None:
    """The plugin is known to napari, also in an environment that was installed before there was one."""
    manager = PluginManager.instance()
    manager.discover()
    if "prompt_das" not in manager:
        manager.register(PluginManifest.from_file(MANIFEST))


def test_napari_finds_the_plugin() -> None:
    """By an entry point that leads to the manifest, without importing anything of ours."""
    pyproject = (MANIFEST.parents[1] / "pyproject.toml").read_text()
    assert 'prompt_das = "prompt_das:napari.yaml"' in pyproject
    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert f'\nname = "{manifest.name}"\n' in pyproject  # or napari refuses it


@pytest.fixture(scope="module")
def window(screen: None, plugin: None) -> Iterator[Any]:
    """A viewer that the tests share: its window takes seconds to open."""
    import napari

    viewer = napari.Viewer()
    yield viewer
    viewer.close()


@pytest.fixture
def viewer(window: Any) -> Iterator[Any]:
    """The viewer without layers and widgets, and without those of a test after it."""
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    notification_manager.records.clear()
    yield window
    widgets = list(window.window.dock_widgets.values())
    window.window.remove_dock_widget("all")
    for widget in widgets:
        widget.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # now, which ends its threads
    window.layers.clear()
    QApplication.processEvents()


@pytest.fixture
def widget(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The dock widget, found as napari finds it: by the manifest. It opens no model by itself."""
    monkeypatch.setattr("prompt_das.napari.widget.DEFAULT_MODEL", "")
    _, widget = viewer.window.add_plugin_dock_widget("prompt_das", "Segment with clicks")
    return widget


def test_the_image_in_view_is_segmented_without_a_question(
    viewer: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPT_DAS_HOME", str(tmp_path))
    shutil.copy(weights, tmp_path / "mine.safetensors")
    monkeypatch.setattr("prompt_das.napari.widget.DEFAULT_MODEL", "mine")
    image = viewer.add_image(np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8))
    _, widget = viewer.window.add_plugin_dock_widget("prompt_das", "Segment with clicks")
    until(
        lambda: (
            widget.controller.image_sessions.current is not None and widget.controller.image_sessions.current.responded
        )
    )
    assert widget.controller.image_sessions.current.image.name == image.name
    assert "mine.safetensors" in widget.network.weights.text()


def until(condition: Callable[[], Any]) -> None:
    """Let the viewer work until something holds."""
    from qtpy.QtWidgets import QApplication

    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        QApplication.processEvents()
        time.sleep(0.005)


def idle(widget: Any) -> None:
    """Until the plugin has nothing more to do."""
    until(lambda: not widget.busy)


def place_of(viewer: Any, position: tuple[float, ...]) -> Any:
    """Where on the canvas the world has this position in the plane in view."""
    from qtpy.QtCore import QPoint

    canvas = viewer.window._qt_viewer.canvas
    corner, step_x, step_y = (
        np.array(canvas._map_canvas2world(at, canvas.view))[-2:] for at in ((0, 0), (1, 0), (0, 1))
    )
    y, x = (np.array(position)[-2:] - corner) / ((step_y - corner)[0], (step_x - corner)[1])
    return QPoint(round(x), round(y))


def click(viewer: Any, position: tuple[float, ...], *, alt: bool = False) -> None:
    """The mouse, where the world has this position in the plane in view."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    keys = Qt.KeyboardModifier.AltModifier if alt else Qt.KeyboardModifier.NoModifier
    native = viewer.window._qt_viewer.canvas.native
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, keys, place_of(viewer, position))
    QApplication.processEvents()


def drag(viewer: Any, start: tuple[float, ...], end: tuple[float, ...]) -> None:
    """The mouse, pressed at one position of the world and let go at another."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    native = viewer.window._qt_viewer.canvas.native
    QApplication.processEvents()
    QTest.mousePress(native, Qt.MouseButton.LeftButton, pos=place_of(viewer, start))
    for part in (0.3, 0.6, 1.0):
        move(native, place_of(viewer, tuple(np.array(start) + part * (np.array(end) - start))))
        QApplication.processEvents()
    QTest.mouseRelease(native, Qt.MouseButton.LeftButton, pos=place_of(viewer, end))
    QApplication.processEvents()


def move(native: Any, place: Any) -> None:
    """With the button held: QTest.mouseMove says nothing of buttons."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    at = QPointF(place)
    event = QMouseEvent(QEvent.Type.MouseMove, at, native.mapToGlobal(at), Qt.MouseButton.NoButton, left, none)
    QApplication.sendEvent(native, event)


def key(viewer: Any, name: str, *, control: bool = False) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    keys = Qt.KeyboardModifier.ControlModifier if control else Qt.KeyboardModifier.NoModifier
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, getattr(Qt.Key, f"Key_{name}"), keys)
    QApplication.processEvents()


@pytest.fixture
def ready(widget: Any, viewer: Any, weights: Path, image: np.ndarray) -> Any:
    """Weights open, an image of voxels of 30 x 8 x 8 chosen, its first slice segmented."""
    widget.controller.open_weights(weights)
    idle(widget)
    viewer.add_image(image, name="em", scale=(30, 8, 8))
    viewer.dims.set_current_step(0, 0)
    widget.image.images.setCurrentIndex(widget.image.images.findText("em"))
    widget.image.images.activated.emit(widget.image.images.currentIndex())
    idle(widget)
    return widget


def instances(viewer: Any) -> np.ndarray:
    return np.asarray(viewer.layers["em instances"].data)


def test_a_click_of_the_mouse_is_answered(ready: Any, viewer: Any, by_hand: Predictor, image: np.ndarray) -> None:
    """And what is on the screen changes with it."""
    before = viewer.screenshot(flash=False)
    assert same_instances(instances(viewer)[0], by_hand.predict([], image=image[0]).instances)
    click(viewer, (0, 20 * 8, 30 * 8))
    idle(ready)
    (position,) = viewer.layers["em prompts"].data
    np.testing.assert_allclose(position, (0, 20, 30), atol=0.5)
    expected = by_hand.predict([position[:0:-1] + 0.5], image=image[0])
    assert same_instances(instances(viewer)[0], expected.instances)
    assert (viewer.screenshot(flash=False) != before).any()


def test_a_click_with_alt_is_negative(ready: Any, viewer: Any) -> None:
    assert ready.status.text() == "Click: this is one. Alt+click: this is none."
    before = instances(viewer)[0].copy()
    notification_manager.records.clear()
    click(viewer, (0, 20 * 8, 30 * 8), alt=True)
    idle(ready)
    (position,) = viewer.layers["em negative prompts"].data
    np.testing.assert_allclose(position, (0, 20, 30), atol=0.5)
    assert len(viewer.layers["em prompts"].data) == 0
    assert same_instances(instances(viewer)[0], before)
    assert "without negative clicks" in notification_manager.records[-1].message


def test_stepping_through_the_slices(ready: Any, viewer: Any, by_hand: Predictor, image: np.ndarray) -> None:
    for z in (2, 1, 2):
        viewer.dims.set_current_step(0, z)
        idle(ready)
        assert same_instances(instances(viewer)[z], by_hand.predict([], image=image[z]).instances)
    assert not instances(viewer)[3].any()


def test_many_clicks_at_once(ready: Any, viewer: Any, by_hand: Predictor, image: np.ndarray) -> None:
    places = [(y, x) for y in (10, 30, 60) for x in (10, 30, 50)]
    for y, x in places:
        click(viewer, (0, y * 8, x * 8))
    idle(ready)
    positions = viewer.layers["em prompts"].data
    assert len(positions) == len(places)
    expected = by_hand.predict(positions[:, :0:-1] + 0.5, image=image[0])
    assert same_instances(instances(viewer)[0], expected.instances)


def test_suggestions_are_answered_by_their_buttons(ready: Any, viewer: Any) -> None:
    ready.suggest.click()
    idle(ready)
    layer = viewer.layers["em suggested places"]
    first = layer.data[0].copy()
    ready.accept.click()
    idle(ready)
    np.testing.assert_allclose(viewer.layers["em prompts"].data, [first])
    viewer.layers["em prompts"].data = layer.data[:0]
    idle(ready)
    ready.reject.click()
    idle(ready)
    np.testing.assert_allclose(viewer.layers["em negative prompts"].data, [first])
    assert not len(viewer.layers["em prompts"].data)


def test_errors_are_notifications(ready: Any, viewer: Any, tmp_path: Path) -> None:
    notification_manager.records.clear()
    ready.controller.open_weights(tmp_path / "missing.pth")
    idle(ready)
    assert "no weights at" in notification_manager.records[-1].message
    assert "model_final.pth" not in ready.network.weights.text()


def test_images_come_and_go(ready: Any, viewer: Any) -> None:
    viewer.add_image(np.zeros((9, 9, 3), np.uint8), name="photo", rgb=True)
    ready.image.images.setCurrentIndex(ready.image.images.findText("photo"))
    notification_manager.records.clear()
    ready.image.images.activated.emit(ready.image.images.currentIndex())
    assert "in color" in notification_manager.records[-1].message
    assert ready.image.images.currentIndex() == 0
    viewer.layers.clear()
    assert ready.image.images.count() == 1
    idle(ready)


def test_the_window_is_closed_while_the_network_works(ready: Any, viewer: Any) -> None:
    viewer.dims.set_current_step(0, 3)
    ready.controller.update()
    viewer.window.remove_dock_widget(ready)
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()


def test_the_widget_says_what_to_do_next(widget: Any, viewer: Any) -> None:
    assert "Open weights" in widget.status.text()
    assert widget.network.weights.text() == "No network yet"


def test_the_diameter_is_asked_for_where_it_counts(
    ready: Any, viewer: Any, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    """The layer of these tests has a scale, but no units."""
    assert ready.image.size_rows.isHidden()
    ready.controller.open_weights(weights_of_physical_scale)
    idle(ready)
    assert not ready.image.size_rows.isHidden()
    assert ready.status.text().startswith("How large are the pixels of 'em'?")
    ready.image.diameter.setValue(29)
    idle(ready)
    expected = Predictor(weights_of_physical_scale, diameter=29).predict([], image=image[0])
    assert same_instances(instances(viewer)[0], expected.instances)
    assert ready.status.text().startswith("Click")


def test_controls_of_instances(ready: Any, viewer: Any, weights: Path, image: np.ndarray) -> None:
    answer = Predictor(weights).predict([], image=image[0])
    threshold = round(float(np.median(answer.probability)), 2)
    assert (ready.instances.threshold.value(), ready.instances.min_size.text()) == (0.5, "as the network has it")
    ready.instances.threshold.setValue(threshold)
    ready.instances.min_size.setValue(0)
    idle(ready)
    assert same_instances(instances(viewer)[0], answer.instances_above(threshold, 0))
    ready.instances.min_size.setValue(-1)
    idle(ready)
    assert same_instances(instances(viewer)[0], answer.instances_above(threshold))


def test_a_line_is_drawn_with_the_mouse(
    ready: Any, viewer: Any, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    """From (20, 15) to (20, 44): 29 pixels, what the network of 14.5 pixels sees at half size."""
    ready.controller.open_weights(weights_of_physical_scale)
    idle(ready)
    ready.image.from_line.click()
    drag(viewer, (0, 20 * 8, 15 * 8), (0, 20 * 8, 44 * 8))
    idle(ready)
    assert ready.image.diameter.value() == pytest.approx(29, abs=1)
    assert ready.image.scale.text().startswith("Objects of")
    assert viewer.layers.selection.active.name == "em prompts"
    click(viewer, (0, 40 * 8, 30 * 8))
    idle(ready)
    assert len(viewer.layers["em prompts"].data) == 1
    assert len(viewer.layers["em diameters"].data) == 1


def test_proofreading_with_buttons_mouse_and_keys(ready: Any, viewer: Any) -> None:
    layer = viewer.layers["em instances"]
    layer.data[0] = 0
    layer.data[0, 10:31, 10:31] = 3
    layer.refresh()
    tools = ready.instances.tools
    tools["delete"].click()
    assert [tool for tool, made in tools.items() if made.isChecked()] == ["delete"]
    assert ready.status.text().startswith("Delete: click")
    click(viewer, (0, 20 * 8, 20 * 8))
    idle(ready)
    assert not instances(viewer)[0, 10:31, 10:31].any()
    np.testing.assert_array_equal(viewer.layers["em negative prompts"].data, [[0, 20, 20]])
    assert len(viewer.layers["em prompts"].data) == 0
    key(viewer, "Z", control=True)
    idle(ready)
    assert len(viewer.layers["em negative prompts"].data) == 0
    assert not ready.instances.undo.isEnabled()
    tools["delete"].click()
    assert not any(made.isChecked() for made in tools.values())
    assert viewer.layers.selection.active.name == "em prompts"


def test_sample_data(widget: Any, viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SHAPE", (3, 96, 96))  # less to wait for
    (layer,) = viewer.open_sample("prompt_das", "synthetic")
    assert layer.data.shape == (3, 96, 96)
    assert tuple(layer.scale) == samples.VOXEL_SIZE
    assert widget.image.images.findText(layer.name) == 1


@pytest.fixture
def model(weights: Path, models_home: Path) -> str:
    """The name of a model of the user."""
    shutil.copy(weights, models_home / "em-tiny.safetensors")
    return "em-tiny"


def test_a_model_is_chosen_by_its_name(model: str, widget: Any) -> None:
    index = widget.network.models.findText(model)
    widget.network.models.setCurrentIndex(index)
    widget.network.models.activated.emit(index)
    idle(widget)
    assert widget.network.weights.text() == "models_home/em-tiny.safetensors"
    assert widget.network.models.currentIndex() == 0
