"""What counts as an instance, and edits of instances by hand. Qt."""

from __future__ import annotations

from functools import partial

from prompt_das.napari.controller import Controller
from prompt_das.napari.panel import Panel, button, row
from prompt_das.napari.proofreading import DELETE, KEEP, MERGE, SPLIT
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QDoubleSpinBox, QLabel, QSpinBox

THRESHOLD = (
    "A pixel is foreground if the network gives it a higher probability. Lower finds more, higher less; below 0.5 "
    "objects come back that were left out because the network is nowhere sure of them"
)
FIT = (
    "Sets the threshold at which the objects of this slice have the diameter that is stated above. Drag lines across "
    "some typical ones first, with 'From a line': people draw outlines inside or outside of a membrane"
)
MIN_SIZE = "What has at most so many pixels is left out; in the whole volume, so many voxels."
NETWORKS_OWN = -1  # of sizes
TOOLS = {
    KEEP: "Click on an instance that is right: it stays as it is, and gets a positive point at its center.",
    DELETE: "Click on an instance that is none: it goes, and a negative point says so.",
    MERGE: "Click on one part of an object, then on another: they become one instance, with a positive point.",
    SPLIT: "Click on both objects of an instance that is two: it is cut where it is narrow between them.",
}
UNDO = (
    "Takes back the last edit with its points, or the last stroke with napari's own brush, bucket or eraser "
    "(Ctrl+Z in the layer of instances)"
)


class InstancesPanel(Panel):
    """The threshold and smallest size of instances, and the tools of proofreading."""

    def __init__(self, controller: Controller) -> None:
        super().__init__("Instances")
        self._controller = controller
        self.threshold = QDoubleSpinBox(decimals=2, minimum=0.05, maximum=0.95, singleStep=0.05)
        self.threshold.setToolTip(THRESHOLD)
        self.threshold.valueChanged.connect(controller.options.set_threshold)
        self.fit = button("Fit to diameter", controller.fit_threshold, FIT)
        self.min_size = QSpinBox(minimum=NETWORKS_OWN, maximum=10**6, suffix=" px")
        self.min_size.setSpecialValueText("as the network has it")
        self.min_size.setKeyboardTracking(False)
        self.min_size.setToolTip(MIN_SIZE)
        self.min_size.valueChanged.connect(
            lambda size: controller.options.set_min_size(None if size == NETWORKS_OWN else size)
        )
        self.tools = {tool: button(tool.title(), partial(self._choose, tool), tip) for tool, tip in TOOLS.items()}
        for made in self.tools.values():
            made.setCheckable(True)
        self.undo = button("Undo", controller.proofreading.undo, UNDO)
        self.add(
            row(QLabel("Threshold"), self.threshold, self.fit),
            row(QLabel("Larger than"), self.min_size),
            row(self.tools[KEEP], self.tools[DELETE], self.tools[MERGE]),
            row(self.tools[SPLIT], self.undo),
        )

    def _choose(self, tool: str) -> None:
        self._controller.proofreading.choose(tool if self.tools[tool].isChecked() else None)

    def refresh(self) -> None:
        current, proofreading = self._controller.image_sessions.current, self._controller.proofreading
        self.setEnabled(current is not None)
        with QSignalBlocker(self.threshold):
            self.threshold.setValue(FOREGROUND_THRESHOLD if current is None else current.threshold)
        min_size = None if current is None else current.min_size
        with QSignalBlocker(self.min_size):
            self.min_size.setValue(NETWORKS_OWN if min_size is None else min_size)
        for tool, made in self.tools.items():
            made.setChecked(tool == proofreading.tool)
        self.undo.setEnabled(current is not None and bool(current.edits.done))
