"""The dock widget: buttons for the controller. Everything that is not Qt is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prompt_das
from prompt_das.napari.adapt import MINUTES
from prompt_das.napari.controller import Controller
from prompt_das.napari.image_panel import ImagePanel
from prompt_das.napari.instances_panel import InstancesPanel
from prompt_das.napari.network_panel import NetworkPanel
from prompt_das.napari.notifications import Notifications
from prompt_das.napari.panel import Panel, button, row
from prompt_das.napari.session import Session

from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from napari.viewer import Viewer
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFileDialog, QLabel, QProgressBar, QVBoxLayout, QWidget

DEFAULT_MODEL = "em-small"
WEIGHTS = "Weights (*.pth *.safetensors)"
LABELS = "TIFF (*.tif);;OME-Zarr (*.zarr)"
VOLUMES = "OME-Zarr (*.zarr);;TIFF (*.tif);;HDF5 (*.h5)"
CONFIGS = Path(prompt_das.__file__).parents[1] / "configs"  # of the repository
CLICKS = "Click: this is one. Alt+click: this is none."
CLICKS_MORE = (
    "A click on something that was missed adds it, Alt+click on something that was found takes it out. The points are "
    "in the layers 'prompts' and 'negative prompts': select one to drag its points, or to delete them."
)
ADAPT = (
    "Trains the network on this volume and your clicks, in the background, for so many minutes. A fifth of the clicks "
    "is kept aside to watch: the network is only replaced by one that has lost nothing there. Five positive clicks are "
    "the least; on different slices they say more."
)
SUGGEST = "Shows where the network expects its largest errors: say whether an object is there"
VOLUME = "Segments every slice with its points, links the instances in 3-D, and writes a file, in the background"
OPEN_POINTS = "Adds the points of a file to the prompts of the image: our JSON, CSV of napari, and others"
SAVE_POINTS = "Writes positive and negative points to a file that the commands read, too"
SAVE_LABELS = "Writes the selected layer of labels, or else the instances, as TIFF or OME-Zarr"
TRAINING = "Makes a folder for a training on this image and its points, with a labeled source"
COALESCE_MS = 30  # events that come together, as when a slider is dragged, make one request


class _Mailbox(QObject):
    """Carries messages from the session's threads to the viewer's."""

    message = Signal(object)


class PromptDASWidget(QWidget):
    """Open weights, choose an image, click.

    Attributes:
        controller: does what the buttons say; scripts may use it as well.
    """

    def __init__(self, napari_viewer: Viewer) -> None:  # napari gives its viewer to a parameter of this name
        super().__init__()
        mailbox = _Mailbox(self)
        viewer = self._viewer = napari_viewer
        self.controller = Controller(
            viewer,
            Session(mailbox.message.emit),
            Notifications(error=show_error, warning=show_warning, info=show_info),
        )
        mailbox.message.connect(self._receive)
        self._timer = QTimer(self, singleShot=True, interval=COALESCE_MS)
        self._timer.timeout.connect(self.controller.update)
        self.controller.update_soon = self._timer.start
        self.controller.on_change = self.refresh
        self._build()
        for events in (viewer.layers.events.inserted, viewer.layers.events.removed):
            events.connect(self._list_images)
        self._list_images()
        self.destroyed.connect(_Closer(self))
        QTimer.singleShot(0, self._begin)

    @property
    def busy(self) -> bool:
        """Whether a response, or the result of a task, is still to come."""
        controller = self.controller
        return self._timer.isActive() or controller.progress is not None or controller.tasks.progress is not None

    # ---- what the buttons do

    def open_weights(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open weights", "", WEIGHTS)
        if path:
            self.controller.open_weights(path)

    def open_points(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open points", "", "Points (*.json *.csv)")
        if path:
            self.controller.files.open_points(path)

    def save_points(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save points", "points.json", "Points (*.json)")
        if path:
            self.controller.files.save_points(path if Path(path).suffix else f"{path}.json")

    def save_labels(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save labels", "labels.tif", LABELS)
        if path:
            self.controller.files.save_labels(path)

    def segment_volume(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Where the result goes", "volume.zarr", VOLUMES, options=QFileDialog.Option.DontConfirmOverwrite
        )
        if path:
            self.controller.files.segment_volume(path)

    def adapt(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Where the adapted network goes", "adapted.safetensors", WEIGHTS)
        if path:
            path = path if Path(path).suffix else f"{path}.safetensors"
            self.controller.files.adapt(path, use=self.controller.open_weights, minutes=self.minutes.value())

    def new_project(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder for the project")
        if not folder:
            return
        base, _ = QFileDialog.getOpenFileName(
            self, "Config to build on: one for adaptation", str(CONFIGS), "*_wda.yaml"
        )
        if base:
            self.controller.files.new_project(folder, base)

    def _receive(self, message: Any) -> None:
        self.controller.receive(message)

    # ---- what they look like

    def _build(self) -> None:
        controller = self.controller
        self.network = NetworkPanel(controller, self.open_weights)
        self.image = ImagePanel(controller, self._viewer.layers)
        self.instances = InstancesPanel(controller)
        self.suggest = QCheckBox("Suggest places")
        self.suggest.setToolTip(SUGGEST)
        self.suggest.toggled.connect(controller.set_suggest)
        self.accept = button("It is one (y)", controller.suggestions.accept, "The selected place becomes a point")
        self.reject = button("It is none (n)", controller.suggestions.reject, "It becomes a negative point")
        self.minutes = QDoubleSpinBox(decimals=0, minimum=1, maximum=600, value=MINUTES, suffix=" min")
        self.minutes.setToolTip(ADAPT)
        self.cancel = button("Cancel", controller.tasks.cancel, "Stop what runs in the background")
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.status.setToolTip(CLICKS_MORE)
        self.bar = QProgressBar()
        layout = QVBoxLayout(self)
        for part in (
            self.network,
            self.image,
            self.instances,
            Panel("Suggestions", self.suggest, row(self.accept, self.reject)),
            Panel("Adaptation", row(button("Adapt to my clicks …", self.adapt, ADAPT), self.minutes)),
            Panel("Whole volume", row(button("Segment all slices …", self.segment_volume, VOLUME), self.cancel)),
            Panel(
                "Files",
                row(
                    button("Open points …", self.open_points, OPEN_POINTS),
                    button("Save points …", self.save_points, SAVE_POINTS),
                ),
                row(
                    button("Save labels …", self.save_labels, SAVE_LABELS),
                    button("New training …", self.new_project, TRAINING),
                ),
            ),
            self.status,
            self.bar,
        ):
            layout.addWidget(part)
        layout.addStretch()

    def _begin(self) -> None:
        """Open the model that comes with the package, and choose the image in view: the first result needs no click."""
        if self.network.has_model(DEFAULT_MODEL):
            self.controller.open_weights(DEFAULT_MODEL)
        active = self._viewer.layers.selection.active
        if isinstance(active, Image) and not active.rgb:
            self.controller.choose(active)

    def _list_images(self) -> None:
        self.image.list_images()
        self.refresh()

    def refresh(self) -> None:
        """Show the controller's state."""
        controller = self.controller
        for panel in (self.network, self.image, self.instances):
            panel.refresh()
        self.accept.setEnabled(controller.suggest)
        self.reject.setEnabled(controller.suggest)
        self.cancel.setEnabled(controller.tasks.progress is not None)
        progress = controller.tasks.progress or controller.progress
        self.bar.setTextVisible(progress is not None)
        self.bar.setRange(0, 1 if progress is None else progress[1])
        self.bar.setValue(0 if progress is None else progress[0])
        self.status.setText(self._status())

    def _status(self) -> str:
        controller = self.controller
        if controller.tasks.name:
            return f"{controller.tasks.name} …"
        if controller.session.predictor is None:
            return "Open weights"
        current = controller.image_sessions.current
        if current is None:
            return "Choose an image"
        if controller.image_sessions.slice_in_view is None:
            return f"There is nothing of '{current.image.name}' here"
        if controller.problem:
            return controller.problem
        if controller.proofreading.hint:
            return controller.proofreading.hint
        if controller.progress is not None:
            return "Segmenting …"
        return CLICKS


class _Closer:
    """Ends the work of a widget that is destroyed. Not a method of it: Qt drops those before."""

    def __init__(self, widget: PromptDASWidget) -> None:
        self._controller = widget.controller
        self._events = widget._viewer.layers.events
        self._list = widget._list_images

    def __call__(self) -> None:
        self._controller.on_change = lambda: None
        self._controller.close()
        self._events.inserted.disconnect(self._list)
        self._events.removed.disconnect(self._list)
