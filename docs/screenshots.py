#!/usr/bin/env python
"""The pictures of docs/getting_started/first_clicks.md: the plugin in a real window, used with the mouse.

    xvfb-run -s "-screen 0 1400x900x24" python -m docs.screenshots --output docs/getting_started

opens the synthetic sample, segments it with the weights of the demo, clicks, shows suggestions, and runs on the
whole volume. The same weights give the same pictures, but for what a font or a graphics driver does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prompt_das.napari import samples
from prompt_das.napari.widget import PromptDASWidget
from prompt_das.ops.points import instance_centers
from prompt_das.volumes.synthetic import make_synthetic_volume

import napari
import numpy as np
from napari._qt.dialogs.qt_notification import NapariQtNotification
from napari.settings import get_settings
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

SIZE = 1180, 760  # of the window, in pixels
WAIT = 600  # seconds at most for an answer
SETTLE = 0.5  # seconds before a picture: what fades has faded
SLICE = 22
CLOSE_UP = (184, 200), 2.2  # (row, column) and magnification: where the clicks change most


class Tour:
    """A viewer with the plugin, and a hand on the mouse."""

    def __init__(self, output: Path) -> None:
        self.output = output
        output.mkdir(parents=True, exist_ok=True)
        get_settings().appearance.theme = "light"
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        self.widget = PromptDASWidget(self.viewer)
        self.viewer.window.add_dock_widget(self.widget, name="Segment with clicks")

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + WAIT
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer after {WAIT} s")
            QApplication.processEvents()
            time.sleep(0.01)

    def wait(self) -> None:
        """Until the plugin has answered."""
        self.until(lambda: not self.widget.busy)

    def click(self, row: float, column: float) -> None:
        """The mouse, on a pixel of the slice in view."""
        image = self.viewer.layers[0]
        y, x = image.data_to_world((SLICE, row, column))[-2:]
        canvas = self.viewer.window._qt_viewer.canvas
        (y0, x0), (_, x1), (y1, _) = (canvas._map_canvas2world(at, canvas.view)[-2:] for at in ((0, 0), (1, 0), (0, 1)))
        at = QPoint(round((x - x0) / (x1 - x0)), round((y - y0) / (y1 - y0)))
        QTest.mouseClick(canvas.native, Qt.MouseButton.LeftButton, pos=at)

    def shoot(self, name: str) -> None:
        """The whole window, as it is."""
        for note in self.viewer.window._qt_window.findChildren(NapariQtNotification):
            note.close()
        end = time.monotonic() + SETTLE
        self.until(lambda: time.monotonic() > end)
        picture = self.viewer.screenshot(canvas_only=False, flash=False)
        path = self.output / f"{name}.png"
        Image.fromarray(picture[..., :3]).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def missed(instances: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
    """Centers (x, y) of the true instances of which the answer has less than half, as a user would see them."""
    ids, centers = instance_centers(truth)
    return [center for one, center in zip(ids, centers, strict=True) if (instances[truth == one] > 0).mean() < 0.5]


def camera_of(viewer: Any) -> Any:
    return getattr(viewer, "scene", viewer).camera  # before napari 0.9 it was the viewer's own


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="em-small")
    parser.add_argument("--output", type=Path, default=Path("docs/getting_started"))
    args = parser.parse_args(arguments)
    _, truth = make_synthetic_volume(samples.SHAPE, "target", samples.SEED)

    tour = Tour(args.output)
    widget, viewer = tour.widget, tour.viewer
    ((data, settings, _),) = samples.synthetic_volume()
    image = viewer.add_image(data, **settings)
    viewer.dims.set_current_step(0, SLICE)
    tour.shoot("1_start")

    widget.controller.open_weights(args.weights)
    tour.wait()
    widget.image.images.setCurrentIndex(widget.image.images.findText(image.name))
    widget.image.images.activated.emit(widget.image.images.currentIndex())
    tour.wait()
    image_session = widget.controller.image_sessions.current
    assert image_session is not None
    tour.shoot("2_automatic")
    camera = camera_of(viewer)
    center, zoom = camera.center, camera.zoom
    camera.center, camera.zoom = image.data_to_world((SLICE, *CLOSE_UP[0])), zoom * CLOSE_UP[1]
    tour.shoot("3_close_up")

    before = image_session.instances.data[SLICE] > 0
    for x, y in missed(image_session.instances.data[SLICE], truth[SLICE]):
        tour.click(y - 0.5, x - 0.5)
    tour.wait()
    after = image_session.instances.data[SLICE] > 0
    true = truth[SLICE] > 0
    for name, mask in (("automatic", before), ("after the clicks", after)):
        print(f"Dice {name}: {2 * (mask & true).sum() / (mask.sum() + true.sum()):.3f}")
    tour.shoot("4_clicks")
    camera.center, camera.zoom = center, zoom

    widget.suggest.click()
    tour.wait()
    tour.shoot("5_suggestions")
    widget.suggest.click()

    with tempfile.TemporaryDirectory() as folder:
        widget.controller.files.segment_volume(Path(folder) / "volume.zarr")
        tour.until(lambda: (widget.controller.tasks.progress or (0, 1))[0] > 100)
        tour.shoot("6_whole_volume")
        tour.wait()
        for layer in viewer.layers:
            layer.visible = layer.name.endswith(" volume")
        viewer.dims.ndisplay = 3
        camera_of(viewer).angles = (0, 25, 55)
        viewer.fit_to_view()
        tour.shoot("7_result")
    viewer.close()


if __name__ == "__main__":
    main()
