"""What a network that is being adapted makes of the slice in view: outlines in a layer, until the adaptation ends."""

from __future__ import annotations

from prompt_das.napari.image_session import ImageSession, place_of, stack_of
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import empty_labels
from prompt_das.napari.messages import Previewed

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels

OUTLINE = 2  # pixels of the slice


class Preview:
    """The layer of previews of an image, which there is from the first one to the end of the adaptation."""

    def __init__(self, viewer: ViewerModel, image_sessions: ImageSessions) -> None:
        self._viewer, self._image_sessions = viewer, image_sessions

    def show(self, message: Previewed) -> None:
        """Show a preview where its image is there still."""
        request = message.request
        for image_session in self._image_sessions:
            if image_session.volume is request.volume:
                layer = self._layer_of(image_session)
                stack_of(layer)[request.z] = message.instances
                layer.refresh()

    def remove(self) -> None:
        """Remove the layers: what they showed is over."""
        for image_session in self._image_sessions:
            if image_session.preview is not None:
                self._viewer.layers.remove(image_session.preview)

    def _layer_of(self, image_session: ImageSession) -> Labels:
        if image_session.preview is None:
            image = image_session.image
            data = empty_labels(np.shape(image_session.instances.data))
            layer = Labels(data, name=f"{image.name} preview", **place_of(image))
            layer.contour = OUTLINE
            active = self._viewer.layers.selection.active
            self._viewer.add_layer(layer)
            self._viewer.layers.selection.active = active
            image_session.preview = layer
        return image_session.preview
