"""Places that are worth a click next, in a layer of their own, where the user says what is there."""

from __future__ import annotations

from prompt_das.adaptation.proposals import propose_in_slice
from prompt_das.napari.image_session import ImageSession
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import move_positions, to_positions, with_slice
from prompt_das.napari.messages import Response

import numpy as np
from napari.components import ViewerModel
from napari.layers import Points

MOST = 20  # places in a slice


class SuggestionLayer:
    """The layer of suggested places of the image in use, which there is once something was suggested."""

    def __init__(self, viewer: ViewerModel, image_sessions: ImageSessions) -> None:
        self._viewer, self._image_sessions = viewer, image_sessions

    def accept(self) -> None:
        """The selected places, or else the first one of the slice, become positive prompts."""
        self._answer(positive=True)

    def reject(self) -> None:
        """They become negative prompts."""
        self._answer(positive=False)

    def show(self, image_session: ImageSession, response: Response, sigma: float) -> None:
        """Replace the suggestions of a slice by those of a response.

        Args:
            sigma: of the center-point head, in pixels of the slice.
        """
        z, segmentation = response.request.z, response.segmentation
        layer = self._layer_of(image_session)
        taken = {z: segmentation.points}
        probability = relative_to(response.request.threshold, segmentation.probability)
        places = propose_in_slice(probability, z, MOST, sigma=sigma, taken=taken)
        positions = to_positions(np.array([(place.x, place.y) for place in places]).reshape(-1, 2), z)
        here = self._in_slice(layer, z)
        scores = np.concatenate([layer.features["score"].to_numpy(float)[~here], [place.score for place in places]])
        layer.selected_data = set()
        layer.data = np.concatenate([layer.data[~here], positions[:, -layer.ndim :]])
        layer.features = {"score": scores}
        self._select_first(layer, z)

    def _answer(self, *, positive: bool) -> None:
        image_session, z = self._image_sessions.current, self._image_sessions.slice_in_view
        if image_session is None or image_session.places is None or z is None:
            return
        places = image_session.places
        if not places.selected_data:
            self._select_first(places, z)
        indices = sorted(places.selected_data)
        if not indices:
            return
        prompts = image_session.prompts if positive else image_session.negative_prompts
        moved = move_positions(places.data[indices], places.data_to_world, prompts.world_to_data, prompts.ndim)
        places.remove_selected()
        self._select_first(places, z)
        prompts.add(moved)

    def _layer_of(self, image_session: ImageSession) -> Points:
        if image_session.places is None:
            layer = image_session.new_places()
            layer.bind_key("y", lambda _: self.accept())
            layer.bind_key("n", lambda _: self.reject())
            active = self._viewer.layers.selection.active
            self._viewer.add_layer(layer)
            layer.mode = "select"
            self._viewer.layers.selection.active = active
            image_session.places = layer
        return image_session.places

    def _select_first(self, places: Points, z: int) -> None:
        """Select the place of the highest score in a slice."""
        here = np.flatnonzero(self._in_slice(places, z))
        scores = places.features["score"].to_numpy(float)[here]
        places.selected_data = {int(here[scores.argmax()])} if len(here) else set()

    @staticmethod
    def _in_slice(places: Points, z: int) -> np.ndarray:
        return np.rint(with_slice(places.data)[:, 0]) == z


def relative_to(threshold: float, probability: np.ndarray) -> np.ndarray:
    """The probability with its logit moved, so that one half lies where the threshold is."""
    foreground, background = probability * (1 - threshold), (1 - probability) * threshold
    return foreground / (foreground + background)
