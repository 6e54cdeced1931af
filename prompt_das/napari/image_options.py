"""What the user states of the image in use, and its segmentation hangs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prompt_das.napari.image_session import ImageSession
from prompt_das.napari.image_sessions import ImageSessions


class ImageOptions:
    """Changes options of image sessions; of the image in use, if nothing else is said."""

    def __init__(self, image_sessions: ImageSessions, on_change: Callable[[], object]) -> None:
        """
        Args:
            on_change: called when an option has another value now.
        """
        self._image_sessions, self._on_change = image_sessions, on_change

    def set_diameter(self, diameter: float) -> None:
        """State the diameter of a typical object in pixels; 0: the voxel size says it."""
        if self._image_sessions.current is not None:
            self.set_diameter_of(self._image_sessions.current, diameter)

    def set_diameter_of(self, image_session: ImageSession, diameter: float) -> None:
        """State the diameter of a typical object of an image in pixels."""
        self._set(image_session, diameter=diameter, pixel_size=0.0)

    def set_pixel_size(self, pixel_size: float) -> None:
        """State the side of a pixel in nm; 0: the layer or its file says it."""
        self._set(self._image_sessions.current, diameter=0.0, pixel_size=pixel_size)

    def set_threshold(self, threshold: float) -> None:
        """State the probability above which a pixel is foreground."""
        self._set(self._image_sessions.current, threshold=threshold)

    def set_min_size(self, min_size: int | None) -> None:
        """State the size in pixels up to which instances are left out; None: the network's."""
        self._set(self._image_sessions.current, min_size=min_size)

    def _set(self, image_session: ImageSession | None, **values: Any) -> None:
        if image_session is not None and any(getattr(image_session, name) != value for name, value in values.items()):
            for name, value in values.items():
                setattr(image_session, name, value)
            self._on_change()
