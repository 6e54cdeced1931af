"""Image layers with the layers that belong to them, and what was predicted of their slices.

These are prompts, where the user clicks: positive and negative ones in a layer each; instances, the result; and
centers that the network suggests. They are ordinary layers: points may be dragged and deleted, instances painted over.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from prompt_das.napari.alt_click import AltClick
from prompt_das.napari.layers import (
    LayerVolume,
    empty_labels,
    move_positions,
    sort_clicks,
    voxel_size_of,
    with_slice,
)
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD
from prompt_das.ops.points import NEGATIVE, POSITIVE
from prompt_das.volumes.address import is_address
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points

PROMPTS: dict[str, Any] = {"face_color": "#ffd166", "border_color": "black", "symbol": "cross"}
NEGATIVE_PROMPTS: dict[str, Any] = {"face_color": "#d55e00", "border_color": "black", "symbol": "x"}
CENTERS: dict[str, Any] = {
    "face_color": "transparent",
    "border_color": "#4cc9f0",
    "symbol": "ring",
    "border_width": 0.2,
}
POINT_SIZE = 5  # pixels of the slice


@dataclass(eq=False)
class ImageSession:
    """Layers that belong together, and what was predicted of their slices.

    Attributes:
        prompts, negative_prompts: points on something to segment, and on something to leave out.
        alt_click: with Alt held, a click in ``prompts`` is a negative one.
        responded: of a slice the key of the request whose result its instances are, and whether it had centers.
        suggested: centers of a slice that were put into the layer; those that are gone from it were judged.
        judged: centers of a slice that shall not be suggested again.
        outside: how many prompts lie outside the image; the user has been notified.
        diameter: of a typical object in pixels of the slice, as the user states it; 0 where they do not.
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many pixels are left out; None: as the network has it.
    """

    image: Image
    volume: LayerVolume
    prompts: Points
    negative_prompts: Points
    instances: Labels
    alt_click: AltClick
    centers: Points | None = None
    responded: dict[int, tuple[Hashable, bool]] = field(default_factory=dict)
    suggested: dict[int, np.ndarray] = field(default_factory=dict)
    judged: dict[int, np.ndarray] = field(default_factory=dict)
    outside: int = 0
    diameter: float = 0.0
    threshold: float = FOREGROUND_THRESHOLD
    min_size: int | None = None

    def layers(self) -> list[Layer]:
        return [self.image, self.prompts, self.negative_prompts, self.instances]

    @property
    def voxel_size(self) -> VoxelSize | None:
        """(z, y, x) in nm: by the layer's scale and units, else by the metadata of its file; None if not known.

        A flat layer is as thick as its pixels are high.
        """
        return voxel_size_of(self.image, flat=True) or self._voxel_size_of_file

    @cached_property
    def _voxel_size_of_file(self) -> VoxelSize | None:
        path = self.image.source.path
        try:
            # At an address, the window would have to wait for the network.
            volume = None if path is None or is_address(path) else open_volume(path)
        except (OSError, ValueError):  # napari reads more than this package does
            return None
        return volume.voxel_size if volume is not None and volume.shape == self.volume.shape else None

    @property
    def num_prompts(self) -> int:
        """Positive and negative ones, those outside the image too."""
        return len(self.prompts.data) + len(self.negative_prompts.data)

    def clicks(self) -> tuple[dict[int, np.ndarray], int]:
        """Clicks (x, y, label) of the slices that have prompts, and how many prompts lie outside."""
        positions = np.concatenate([self._positions(self.prompts), self._positions(self.negative_prompts)])
        labels = np.full(len(positions), NEGATIVE)
        labels[: len(self.prompts.data)] = POSITIVE
        return sort_clicks(positions, labels, self.volume.shape)

    def _positions(self, prompts: Points) -> np.ndarray:
        """(N, 3) in the image."""
        image = self.image
        return with_slice(move_positions(prompts.data, prompts.data_to_world, image.world_to_data, image.ndim))

    def new_centers(self) -> Points:
        """An empty layer of suggested centers."""
        return Points(
            np.zeros((0, self.image.ndim)),
            name=f"{self.image.name} suggested centers",
            features={"score": np.zeros(0)},
            size=POINT_SIZE,
            **CENTERS,
            **place_of(self.image),
        )


class ImageSessions:
    """The image sessions of a viewer, and which of them is in use.

    Attributes:
        current: what is being segmented; None before an image is chosen, and after one of its layers was deleted.
    """

    def __init__(
        self, viewer: ViewerModel, *, on_edit: Callable[[], object], on_forget_current: Callable[[], object]
    ) -> None:
        """
        Args:
            on_edit: called when there may be something new to segment: another slice in view, other points or data.
            on_forget_current: called when ``current`` has become None, since a layer was deleted.
        """
        self.current: ImageSession | None = None
        self._viewer, self._on_edit, self._on_forget_current = viewer, on_edit, on_forget_current
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
        return image_session

    def _on_event(self) -> None:
        self._on_edit()

    def _on_points(self, event: Any) -> None:
        if str(event.action) in ("added", "removed", "changed"):  # and not: is about to be
            self._on_edit()

    def _on_removed(self, event: Any) -> None:
        for image_session in list(self._all):
            if event.value is image_session.centers:
                image_session.centers = None
                image_session.suggested.clear()
            if event.value in image_session.layers():
                self.forget(image_session)


def new_image_session(image: Image) -> ImageSession:
    """Build the layers of an image, which are in no viewer yet. Raises ValueError if the image is no gray stack."""
    if image.rgb:
        raise ValueError(
            f"layer '{image.name}' is in color. Electron microscopy is gray: right click on it, 'Split RGB'"
        )
    volume = LayerVolume(finest(image), image.name)
    place = place_of(image)
    shape = volume.shape[-image.ndim :]
    instances = Labels(empty_labels(shape), name=f"{image.name} instances", opacity=0.5, **place)
    nothing = np.zeros((0, image.ndim))
    prompts = Points(nothing, name=f"{image.name} prompts", size=POINT_SIZE, **PROMPTS, **place)
    negative = Points(nothing, name=f"{image.name} negative prompts", size=POINT_SIZE, **NEGATIVE_PROMPTS, **place)
    return ImageSession(image, volume, prompts, negative, instances, AltClick(prompts, negative))


def place_of(image: Image) -> dict[str, Any]:
    """Where the layer lies in the world. For a multi-scale image, its finest level."""
    return {name: getattr(image, name) for name in ("affine", "rotate", "scale", "shear", "translate", "units")}


def finest(image: Image) -> Any:
    """The array of an image layer, at full resolution."""
    return image.data[0] if image.multiscale else image.data


def stack_of(labels: Labels) -> Any:
    """The array (Z, H, W) of a labels layer."""
    return labels.data if labels.ndim == 3 else labels.data[None]
