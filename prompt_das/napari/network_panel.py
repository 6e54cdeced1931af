"""The network: models by name, or weights in a file. Qt."""

from __future__ import annotations

from collections.abc import Callable

from prompt_das.checkpoint.model_zoo import list_models
from prompt_das.napari.controller import Controller
from prompt_das.napari.panel import Panel, button, row

from napari.utils.notifications import show_warning
from qtpy.QtWidgets import QComboBox, QLabel

NO_WEIGHTS = "No network yet"


class NetworkPanel(Panel):
    """Choose a model, or open weights; what is open is written below."""

    def __init__(self, controller: Controller, open_weights: Callable[[], object]) -> None:
        super().__init__("Network")
        self._controller = controller
        self.weights = QLabel(NO_WEIGHTS)
        self.weights.setWordWrap(True)
        self.models = QComboBox()
        self.models.setToolTip("Models that come with the package, and those of PROMPT_DAS_HOME")
        self.models.activated.connect(self._open_model)
        self._list_models()
        tip = "A network from a file: of a training, an adaptation, or one that somebody has shared"
        self.add(row(self.models, button("Open weights …", open_weights, tip)), self.weights)

    def has_model(self, name: str) -> bool:
        """Whether a model is on this machine."""
        return self.models.findData(name) >= 0

    def refresh(self) -> None:
        weights = self._controller.session.weights
        self.weights.setText(NO_WEIGHTS if weights is None else f"{weights.parent.name}/{weights.name}")

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
            self._controller.open_weights(name)
