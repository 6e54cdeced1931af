"""Alt+click in one layer of points adds the point to another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Points


class AltClick:
    """Takes the place of napari's own mouse callback while points are added to a layer.

    A click does what it did, and with Alt held it adds its point to another layer. In other modes, where Alt+click
    has meanings of napari's, nothing is changed.
    """

    def __init__(self, layer: Points, other: Points) -> None:
        """
        Args:
            layer: where the user clicks. Not in mode "add" yet.
            other: where the points of Alt+click go.
        """
        self._layer, self._other = layer, other
        self._add: Callable[[Points, Any], Any] | None = None
        layer.events.mode.connect(self._on_mode)

    def __call__(self, layer: Points, event: Any) -> Any:
        """From the press to the release of the mouse: napari's generator, for the layer that gets the point."""
        assert self._add is not None
        return self._add(self._other if "Alt" in event.modifiers else layer, event)

    def close(self) -> None:
        """Give the layer back to napari."""
        self._layer.events.mode.disconnect(self._on_mode)
        callbacks = self._layer.mouse_drag_callbacks
        if self in callbacks:
            callbacks[callbacks.index(self)] = self._add

    def _on_mode(self) -> None:
        """napari has put the callback of the new mode last, and has removed that of the old one if it was there."""
        callbacks = self._layer.mouse_drag_callbacks
        if self in callbacks:
            callbacks.remove(self)
        if self._layer.mode == "add":
            self._add, callbacks[-1] = callbacks[-1], self
