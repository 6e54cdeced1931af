"""The dock widget: buttons for the controller. Everything that is not Qt is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prompt_das
from prompt_das.checkpoint.model_zoo import list_models
from prompt_das.napari.adapt import MINUTES
from prompt_das.napari.controller import Controller
from prompt_das.napari.notifications import Notifications
from prompt_das.napari.session import Session
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD

from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from napari.viewer import Viewer
from qtpy.QtCore import QObject, QSignalBlocker, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

NO_WEIGHTS = "No network yet"
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
    "is kept aside to watch: the network is only replaced by one that does better there. Five positive clicks are the "
    "least; on different slices they say more."
)
DIAMETER = (
    "How large is a typical object, in pixels of the image? The image is brought to the size that the network knows. "
    "Without it the scale and units of the layer say how large its pixels are."
)
THRESHOLD = "A pixel is foreground if the network gives it a higher probability. Lower finds more, higher less."
MIN_SIZE = "What has at most so many pixels is left out; in the whole volume, so many voxels."
NETWORKS_OWN = -1  # of sizes
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
        self.weights = QLabel(NO_WEIGHTS)
        self.weights.setWordWrap(True)
        self.models = QComboBox()
        self.models.setToolTip("Models that come with the package, and those of PROMPT_DAS_HOME")
        self.models.activated.connect(self._open_model)
        self.images = QComboBox()
        self.images.activated.connect(self._choose)
        self.diameter = QDoubleSpinBox(decimals=0, maximum=4096)
        self.diameter.setKeyboardTracking(False)  # not 3 on the way to 36
        self.diameter.setSpecialValueText("by the voxel size")  # at 0
        self.diameter.setToolTip(DIAMETER)
        self.diameter.valueChanged.connect(self.controller.set_diameter)
        self.diameter_row = _row(QLabel("Diameter (px)"), self.diameter)
        self.threshold = QDoubleSpinBox(decimals=2, minimum=0.05, maximum=0.95, singleStep=0.05)
        self.threshold.setToolTip(THRESHOLD)
        self.threshold.valueChanged.connect(self.controller.set_threshold)
        self.min_size = QSpinBox(minimum=NETWORKS_OWN, maximum=10**6, suffix=" px")
        self.min_size.setSpecialValueText("as the network has it")
        self.min_size.setKeyboardTracking(False)
        self.min_size.setToolTip(MIN_SIZE)
        self.min_size.valueChanged.connect(
            lambda size: self.controller.set_min_size(None if size == NETWORKS_OWN else size)
        )
        self.suggest = QCheckBox("Suggest centers")
        self.suggest.toggled.connect(self.controller.set_suggest)
        self.accept, self.reject = QPushButton("Accept (y)"), QPushButton("Reject (n)")
        self.accept.clicked.connect(self.controller.suggestions.accept)
        self.reject.clicked.connect(self.controller.suggestions.reject)
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.status.setToolTip(CLICKS_MORE)
        self.bar = QProgressBar()

        layout = QVBoxLayout(self)
        _group(layout, "Network", _row(self.models, _button("Open weights …", self.open_weights)), self.weights)
        _group(layout, "Image", self.images, self.diameter_row)
        _group(
            layout,
            "Instances",
            _row(QLabel("Threshold"), self.threshold),
            _row(QLabel("Larger than"), self.min_size),
        )
        _group(layout, "Suggestions", self.suggest, _row(self.accept, self.reject))
        self.minutes = QDoubleSpinBox(decimals=0, minimum=1, maximum=600, value=MINUTES, suffix=" min")
        self.minutes.setToolTip(ADAPT)
        adapt = _button("Adapt to my clicks …", self.adapt)
        adapt.setToolTip(ADAPT)
        self.cancel = _button("Cancel", self.controller.tasks.cancel)
        _group(layout, "Adaptation", _row(adapt, self.minutes))
        _group(layout, "Whole volume", _row(_button("Segment all slices …", self.segment_volume), self.cancel))
        _group(
            layout,
            "Files",
            _row(_button("Open points …", self.open_points), _button("Save points …", self.save_points)),
            _row(_button("Save labels …", self.save_labels), _button("New training …", self.new_project)),
        )
        layout.addWidget(self.status)
        layout.addWidget(self.bar)
        layout.addStretch()
        self._list_models()

    def _list_models(self) -> None:
        """The models that are on this machine, by name; none is chosen."""
        self.models.addItem("Choose a model …", None)
        try:
            names = [name for name, model in list_models().items() if model.file.is_file()]
        except ValueError as error:  # a models.yaml of the user; files can be opened as ever
            show_warning(str(error))
            names = []
        for name in names:
            self.models.addItem(name, name)
        self.models.setEnabled(bool(names))

    def _open_model(self, index: int) -> None:
        name = self.models.itemData(index)
        if name is not None:
            self.models.setCurrentIndex(0)  # what is open is written below, whether it is a model or a file
            self.controller.open_weights(name)

    def _begin(self) -> None:
        """Open the model that comes with the package, and choose the image in view: the first result needs no click."""
        if DEFAULT_MODEL in (self.models.itemData(index) for index in range(self.models.count())):
            self.controller.open_weights(DEFAULT_MODEL)
        active = self._viewer.layers.selection.active
        if isinstance(active, Image) and not active.rgb:
            self.controller.choose(active)

    def _list_images(self) -> None:
        """The image layers there are; the one in use stays chosen."""
        self.images.clear()
        self.images.addItem("Choose an image …", None)
        for layer in self._viewer.layers:
            if isinstance(layer, Image):
                self.images.addItem(layer.name, layer)
        self.refresh()

    def _choose(self, index: int) -> None:
        self.controller.choose(self.images.itemData(index))

    def refresh(self) -> None:
        """Show the controller's state."""
        controller = self.controller
        weights = controller.session.weights
        self.weights.setText(NO_WEIGHTS if weights is None else f"{weights.parent.name}/{weights.name}")
        shown = [self.images.itemData(index) for index in range(self.images.count())]
        current = controller.image_sessions.current
        chosen = None if current is None else current.image
        self.images.setCurrentIndex(shown.index(chosen) if chosen in shown else 0)
        self.diameter_row.setVisible(controller.asks_for_size)
        self.diameter.setEnabled(current is not None)
        with QSignalBlocker(self.diameter):
            self.diameter.setValue(0 if current is None else current.diameter)
        self.threshold.setEnabled(current is not None)
        with QSignalBlocker(self.threshold):
            self.threshold.setValue(FOREGROUND_THRESHOLD if current is None else current.threshold)
        self.min_size.setEnabled(current is not None)
        min_size = None if current is None else current.min_size
        with QSignalBlocker(self.min_size):
            self.min_size.setValue(NETWORKS_OWN if min_size is None else min_size)
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


def _button(text: str, action: Any) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(action)
    return button


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row


def _group(layout: QVBoxLayout, title: str, *widgets: QWidget) -> None:
    group = QGroupBox(title)
    inner = QVBoxLayout(group)
    for widget in widgets:
        inner.addWidget(widget)
    layout.addWidget(group)
