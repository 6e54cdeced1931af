"""The image that is segmented, and how large things are in it. Qt."""

from __future__ import annotations

from prompt_das.napari.controller import Controller
from prompt_das.napari.image_scale import describe_scale
from prompt_das.napari.panel import Panel, button, row

from napari.components import LayerList
from napari.layers import Image
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLabel, QVBoxLayout, QWidget

PIXEL_SIZE = (
    "How large is a pixel of the image, in nanometers? The image is brought to the pixel size that the network knows. "
    "Without it the scale and units of the layer, or its file, say it."
)
DIAMETER = (
    "How large is a typical object, in pixels of the image? It takes the place of the pixel size, where that is not "
    "known."
)
FROM_LINE = (
    "Drag a line across one typical object, from border to border: its length becomes the diameter. Draw several, and "
    "their median counts."
)


class ImagePanel(Panel):
    """Choose an image; where the network needs it, state the size of its pixels or objects."""

    def __init__(self, controller: Controller, layers: LayerList) -> None:
        super().__init__("Image")
        self._controller, self._layers = controller, layers
        self.images = QComboBox()
        self.images.setToolTip("The image layer that is segmented")
        self.images.activated.connect(lambda index: controller.choose(self.images.itemData(index)))
        self.pixel_size = _size("from the layer", " nm", PIXEL_SIZE)
        self.pixel_size.valueChanged.connect(controller.options.set_pixel_size)
        self.diameter = _size("not stated", " px", DIAMETER)
        self.diameter.valueChanged.connect(controller.options.set_diameter)
        self.from_line = button("From a line", controller.lines.draw, FROM_LINE)
        self.scale = QLabel()
        self.scale.setToolTip("What says how large things are, and by how much the image is enlarged for the network")
        self.scale.setWordWrap(True)
        self.size_rows = QWidget()
        layout = QVBoxLayout(self.size_rows)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(row(QLabel("Pixel size"), self.pixel_size))
        layout.addWidget(row(QLabel("Diameter"), self.diameter, self.from_line))
        layout.addWidget(self.scale)
        self.add(self.images, self.size_rows)

    def list_images(self) -> None:
        """The image layers there are; the one in use stays chosen."""
        self.images.clear()
        self.images.addItem("Choose an image …", None)
        for layer in self._layers:
            if isinstance(layer, Image):
                self.images.addItem(layer.name, layer)
        self.refresh()

    def refresh(self) -> None:
        controller = self._controller
        current = controller.image_sessions.current
        shown = [self.images.itemData(index) for index in range(self.images.count())]
        chosen = None if current is None else current.image
        self.images.setCurrentIndex(shown.index(chosen) if chosen in shown else 0)
        self.size_rows.setVisible(controller.asks_for_size)
        self.size_rows.setEnabled(current is not None)
        for box, value in (
            (self.pixel_size, 0 if current is None else current.pixel_size),
            (self.diameter, 0 if current is None else current.diameter),
        ):
            with QSignalBlocker(box):
                box.setValue(value)
        scale = describe_scale(controller.session.predictor, current)
        self.scale.setText(scale)
        self.scale.setVisible(bool(scale))


def _size(text_of_zero: str, unit: str, tip: str) -> QDoubleSpinBox:
    box = QDoubleSpinBox(decimals=1, maximum=4096, suffix=unit)
    box.setKeyboardTracking(False)  # not 3 on the way to 36
    box.setSpecialValueText(text_of_zero)
    box.setToolTip(tip)
    return box
