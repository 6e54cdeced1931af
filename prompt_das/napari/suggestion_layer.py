"""Predicted centers in a layer of their own, where the user accepts or rejects them."""

from __future__ import annotations

from prompt_das.napari.image_session import ImageSession
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import NO_POINTS, move_positions, to_points, to_positions, with_slice
from prompt_das.napari.messages import Response
from prompt_das.napari.suggestions import new_centers
from prompt_das.ops.points import POSITIVE

import numpy as np
from napari.components import ViewerModel
from napari.layers import Points


class SuggestionLayer:
    """The layer of suggested centers of the image in use, which there is once something was suggested."""

    def __init__(self, viewer: ViewerModel, image_sessions: ImageSessions) -> None:
        self._viewer, self._image_sessions = viewer, image_sessions

    def accept(self) -> None:
        """The selected suggestions, or else the surest one of the slice, become prompts."""
        image_session, indices = self._selected()
        if image_session is None or image_session.centers is None or not indices:
            return
        centers, prompts = image_session.centers, image_session.prompts
        moved = move_positions(centers.data[indices], centers.data_to_world, prompts.world_to_data, prompts.ndim)
        self._remove(image_session, indices)
        prompts.add(moved)

    def reject(self) -> None:
        """The selected suggestions, or else the surest one of the slice, go and do not come back."""
        image_session, indices = self._selected()
        if image_session is not None and indices:
            self._remove(image_session, indices)

    def show(self, image_session: ImageSession, response: Response, radius: float) -> None:
        """Replace the suggestions of a slice by the centers of a response that say something new.

        Args:
            radius: pixels around a prompt, positive or negative, or a judged suggestion; nothing is suggested there.
        """
        z, segmentation = response.request.z, response.segmentation
        assert segmentation.centers is not None
        layer = self._layer_of(image_session)
        positions = with_slice(layer.data)
        here = np.rint(positions[:, 0]) == z
        left = to_points(positions[here])
        before = image_session.suggested.get(z, NO_POINTS)
        gone = ~(before[:, None] == left[None]).all(axis=-1).any(axis=1)
        image_session.judged[z] = np.concatenate([image_session.judged.get(z, NO_POINTS), before[gone]])
        prompts, positive = segmentation.points, segmentation.labels == POSITIVE
        rejected = np.concatenate([image_session.judged[z], prompts[~positive]])
        new = new_centers(segmentation.centers, segmentation.instances, prompts[positive], rejected, radius)
        positions = to_positions(new.points, z)
        scores = np.concatenate([layer.features["score"].to_numpy(float)[~here], new.scores])
        layer.selected_data = set()
        layer.data = np.concatenate([layer.data[~here], positions[:, -layer.ndim :]])
        layer.features = {"score": scores}
        image_session.suggested[z] = to_points(positions)
        _select_surest(image_session, z)

    def _selected(self) -> tuple[ImageSession | None, list[int]]:
        image_session, z = self._image_sessions.current, self._image_sessions.slice_in_view
        if image_session is None or image_session.centers is None or z is None:
            return None, []
        if not image_session.centers.selected_data:
            _select_surest(image_session, z)
        return image_session, sorted(image_session.centers.selected_data)

    def _remove(self, image_session: ImageSession, indices: list[int]) -> None:
        assert image_session.centers is not None
        image_session.centers.selected_data = set(indices)
        image_session.centers.remove_selected()
        z = self._image_sessions.slice_in_view
        if z is not None:
            _select_surest(image_session, z)

    def _layer_of(self, image_session: ImageSession) -> Points:
        if image_session.centers is None:
            layer = image_session.new_centers()
            layer.bind_key("y", lambda _: self.accept())
            layer.bind_key("n", lambda _: self.reject())
            active = self._viewer.layers.selection.active
            self._viewer.add_layer(layer)
            layer.mode = "select"
            self._viewer.layers.selection.active = active
            image_session.centers = layer
        return image_session.centers


def _select_surest(image_session: ImageSession, z: int) -> None:
    layer = image_session.centers
    if layer is None:
        return
    here = np.flatnonzero(np.rint(with_slice(layer.data)[:, 0]) == z)
    scores = layer.features["score"].to_numpy(float)[here]
    layer.selected_data = {int(here[scores.argmax()])} if len(here) else set()
