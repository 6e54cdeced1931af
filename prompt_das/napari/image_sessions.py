"""The image sessions of a viewer, and which of them is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prompt_das.napari.image_session import ImageSession, new_image_session

from napari.components import ViewerModel
from napari.layers import Image


class ImageSessions:
    """The image sessions of a viewer, and which of them is in use.

    Attributes:
        current: what is being segmented; None before an image is chosen, and after one of its layers was deleted.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        *,
        on_add: Callable[[ImageSession], object],
        on_edit: Callable[[], object],
        on_forget_current: Callable[[], object],
    ) -> None:
        """
        Args:
            on_add: called with an image that is chosen for the first time.
            on_edit: called when there may be something new to segment: another slice in view, other points or data.
            on_forget_current: called when ``current`` has become None, since a layer was deleted.
        """
        self.current: ImageSession | None = None
        self._viewer, self._on_add = viewer, on_add
        self._on_edit, self._on_forget_current = on_edit, on_forget_current
        self._all: list[ImageSession] = []
        viewer.dims.events.point.connect(self._on_event)
        viewer.layers.events.removed.connect(self._on_removed)

    def __iter__(self) -> Iterator[ImageSession]:
        return iter(self._all)

    def close(self) -> None:
        """Leave the viewer alone. Its layers stay."""
        self._viewer.dims.events.point.disconnect(self._on_event)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        for image_session in list(self._all):
            self.forget(image_session)

    @property
    def slice_in_view(self) -> int | None:
        """z of the current image, or None if the viewer shows a place beside it."""
        if self.current is None:
            return None
        if self.current.image.ndim == 2:
            return 0
        z = round(float(self.current.image.world_to_data(self._viewer.dims.point)[0]))
        return z if 0 <= z < len(self.current.volume) else None

    def choose(self, image: Image | None) -> None:
        """Make this layer the current one. Raises ValueError if it is no gray stack; then there is none."""
        self.current = None
        if image is not None:
            known = (image_session for image_session in self._all if image_session.image is image)
            self.current = next(known, None) or self._add(image)

    def forget(self, image_session: ImageSession) -> None:
        """Leave an image and its layers alone."""
        image_session.image.events.data.disconnect(self._on_event)
        image_session.prompts.events.data.disconnect(self._on_points)
        image_session.negative_prompts.events.data.disconnect(self._on_points)
        image_session.alt_click.close()
        self._all.remove(image_session)
        if image_session is self.current:
            self.current = None
            self._on_forget_current()

    def _add(self, image: Image) -> ImageSession:
        image_session = new_image_session(image)
        self._viewer.add_layer(image_session.instances)
        for prompts in (image_session.negative_prompts, image_session.prompts):  # the last one is listed first
            self._viewer.add_layer(prompts)
            prompts.mode = "add"
            prompts.events.data.connect(self._on_points)
        self._viewer.layers.selection.active = image_session.prompts
        image.events.data.connect(self._on_event)
        self._all.append(image_session)
        self._on_add(image_session)
        return image_session

    def _on_event(self) -> None:
        self._on_edit()

    def _on_points(self, event: Any) -> None:
        if str(event.action) in ("added", "removed", "changed"):  # and not: is about to be
            self._on_edit()

    def _on_removed(self, event: Any) -> None:
        for image_session in list(self._all):
            if event.value is image_session.places:
                image_session.places = None
            if event.value is image_session.lines:
                image_session.lines = None
            if event.value is image_session.preview:
                image_session.preview = None
            if event.value in image_session.layers():
                self.forget(image_session)
