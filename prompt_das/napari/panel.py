"""What panels of the dock widget are made of, Qt."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget


class Panel(QGroupBox):
    """A titled group of controls, one below the other."""

    def __init__(self, title: str, *widgets: QWidget) -> None:
        super().__init__(title)
        self._layout = QVBoxLayout(self)
        self.add(*widgets)

    def add(self, *widgets: QWidget) -> None:
        for widget in widgets:
            self._layout.addWidget(widget)


def button(text: str, action: Any, tip: str = "") -> QPushButton:
    made = QPushButton(text)
    made.clicked.connect(action)
    made.setToolTip(tip)
    return made


def row(*widgets: QWidget) -> QWidget:
    """Widgets side by side."""
    made = QWidget()
    layout = QHBoxLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return made
