"""Measure the diameter of a typical object from lines that the user draws across some."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prompt_das.napari.image_session import ImageSession, place_of
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import move_positions

import numpy as np
from napari.components import ViewerModel
from napari.layers import Shapes

LEAST_PIXELS = 2.0  # a shorter line is a click that was meant for something else
LINES: dict[str, Any] = {"edge_color": "#4cc9f0", "edge_width": 1, "face_color": "transparent"}


class DiameterLines:
    """A layer of lines for the image in use; their median length is the diameter that is measured."""

    def __init__(
        self, viewer: ViewerModel, image_sessions: ImageSessions, on_measure: Callable[[ImageSession, float], object]
    ) -> None:
        """
        Args:
            on_measure: called with the image and its diameter in pixels when a line was drawn, moved or deleted.
        """
        self._viewer, self._image_sessions, self._on_measure = viewer, image_sessions, on_measure

    def draw(self) -> None:
        """Let the user draw a line, in the image in use; those of before stay, and count."""
        image_session = self._image_sessions.current
        if image_session is None:
            return
        if image_session.lines is None:
            image = image_session.image
            lines = Shapes(ndim=image.ndim, name=f"{image.name} diameters", **LINES, **place_of(image))
            self._viewer.add_layer(lines)
            lines.events.data.connect(partial(self._on_data, image_session))
            image_session.lines = lines
        image_session.lines.mode = "add_line"
        self._viewer.layers.selection.active = image_session.lines

    def _on_data(self, image_session: ImageSession, event: Any) -> None:
        lines = image_session.lines
        if lines is None or str(event.action) not in ("added", "changed", "removed"):  # but: is about to be
            return
        diameter = median_length(lines, image_session)
        if diameter is not None:
            self._on_measure(image_session, diameter)
        if str(event.action) == "added" and image_session is self._image_sessions.current:
            self._viewer.layers.selection.active = image_session.prompts  # the next click is one for the network


def median_length(lines: Shapes, image_session: ImageSession) -> float | None:
    """Median length of the lines in pixels of the image's slices, to a tenth; None if there are none."""
    image = image_session.image
    lengths = []
    for vertices in lines.data:
        ends = move_positions(vertices, lines.data_to_world, image.world_to_data, image.ndim)[[0, -1], -2:]
        lengths.append(float(np.linalg.norm(ends[1] - ends[0])))
    lengths = [length for length in lengths if length >= LEAST_PIXELS]
    return round(float(np.median(lengths)), 1) if lengths else None
