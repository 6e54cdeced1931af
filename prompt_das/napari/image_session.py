"""An image layer with the layers that belong to it, and what was predicted of its slices.

These are prompts, where the user clicks: positive and negative ones in a layer each; instances, the result; and
places that are suggested for the next clicks. They are ordinary layers: points may be dragged and deleted, instances
painted over.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from prompt_das.napari.alt_click import AltClick
from prompt_das.napari.edits import Edits, PointsChange
from prompt_das.napari.layers import (
    LayerVolume,
    empty_labels,
    move_positions,
    sort_clicks,
    to_points,
    to_positions,
    voxel_size_of,
    with_slice,
)
from prompt_das.napari.messages import Request
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD
from prompt_das.ops.points import NEGATIVE, POSITIVE
from prompt_das.volumes.address import is_address
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import Box
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np
from napari.layers import Image, Labels, Layer, Points, Shapes

LABEL = "prompt_das_label"  # in the metadata of a layer of points: POSITIVE or NEGATIVE
PROMPTS: dict[str, Any] = {
    "face_color": "#ffd166",
    "border_color": "black",
    "symbol": "cross",
    "metadata": {LABEL: POSITIVE},
}
NEGATIVE_PROMPTS: dict[str, Any] = {
    "face_color": "#d55e00",
    "border_color": "black",
    "symbol": "x",
    "metadata": {LABEL: NEGATIVE},
}
PLACES: dict[str, Any] = {
    "face_color": "transparent",
    "border_color": "#4cc9f0",
    "symbol": "ring",
    "border_width": 0.2,
}
POINT_SIZE = 5  # pixels of the slice
LARGE = 4096  # pixels, the side of a slice whose visible part is segmented first


@dataclass(eq=False)
class ImageSession:
    """Layers that belong together, and what was predicted of their slices.

    Attributes:
        prompts, negative_prompts: points on something to segment, and on something to leave out.
        alt_click: with Alt held, a click in ``prompts`` is a negative one.
        responded: of a slice the key of the request whose result its instances are, and whether with suggestions.
        edits: what the user has changed in ``instances``.
        lines: drawn across objects, to measure their diameter.
        preview: instances by a network that is being adapted.
        outside: how many prompts lie outside the image; the user has been notified.
        diameter: of a typical object in pixels of the slice, as the user states it; 0 where they do not.
        pixel_size: side of a pixel in nm, as the user states it; 0 where they do not. Only one of the two is stated.
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many pixels are left out; None: as the network has it.
    """

    image: Image
    volume: LayerVolume
    prompts: Points
    negative_prompts: Points
    instances: Labels
    alt_click: AltClick
    places: Points | None = None
    responded: dict[int, tuple[Hashable, bool]] = field(default_factory=dict)
    edits: Edits = field(default_factory=Edits)
    lines: Shapes | None = None
    preview: Labels | None = None
    outside: int = 0
    diameter: float = 0.0
    pixel_size: float = 0.0
    threshold: float = FOREGROUND_THRESHOLD
    min_size: int | None = None

    def layers(self) -> list[Layer]:
        return [self.image, self.prompts, self.negative_prompts, self.instances]

    @property
    def voxel_size(self) -> VoxelSize | None:
        """(z, y, x) in nm: by the layer's scale and units, else by the metadata of its file; None if not known.

        A flat layer is as thick as its pixels are high.
        """
        return self.voxel_size_of_layer or self._voxel_size_of_file

    @property
    def voxel_size_of_layer(self) -> VoxelSize | None:
        """(z, y, x) in nm by the scale and units of the layer; None if they say nothing."""
        return voxel_size_of(self.image, flat=True)

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
        positions = np.concatenate([self.positions_of(self.prompts), self.positions_of(self.negative_prompts)])
        labels = np.full(len(positions), NEGATIVE)
        labels[: len(self.prompts.data)] = POSITIVE
        return sort_clicks(positions, labels, self.volume.shape)

    def request(self, z: int, clicks: np.ndarray, scale: float, *, suggest: bool) -> Request:
        """Ask for slice z with clicks (N, 3), at a scale in network pixels per pixel."""
        held = self.edits.held.get(z)
        return Request(
            self.volume,
            z,
            clicks,
            stack_of(self.instances)[z],
            suggest=suggest,
            scale=scale,
            threshold=self.threshold,
            min_size=self.min_size,
            held=None if held is None else held.copy(),
            first=self.visible_part(),
        )

    def shows(self, request: Request) -> bool:
        """Whether the result of a request is in the layer of instances already."""
        before = self.responded.get(request.z)
        return before is not None and before[0] == request.key and before[1] >= request.suggest

    def visible_part(self) -> Box | None:
        """The part (y0, x0, y1, x1) of a large slice that the viewer shows; None if it is all, or the slice small."""
        height, width = self.volume.shape[1:]
        (y0, x0), (y1, x1) = self.instances.corner_pixels[:, -2:].tolist()
        box = (max(y0, 0), max(x0, 0), min(y1 + 1, height), min(x1 + 1, width))
        shown = (box[2] - box[0]) * (box[3] - box[1])
        is_part = 1 < shown < height * width  # napari has corners of zeros where nothing was drawn yet
        return box if is_part and max(height, width) >= LARGE else None

    def positions_of(self, prompts: Points) -> np.ndarray:
        """Positions (N, 3) in the image of the points in a layer."""
        image = self.image
        return with_slice(move_positions(prompts.data, prompts.data_to_world, image.world_to_data, image.ndim))

    def points_to_layer(self, prompts: Points, points: np.ndarray, z: int) -> np.ndarray:
        """Points (N, 2) of slice z -> what a layer has to hold to show them there, (N, dimensions of the image)."""
        image = self.image
        positions = to_positions(points, z)[:, -image.ndim :]
        return move_positions(positions, image.data_to_world, prompts.world_to_data, image.ndim)

    def points_change(self, prompts: Points, z: int, mask: np.ndarray, points: np.ndarray) -> PointsChange:
        """Replace the points of slice z that lie on a mask (H, W) by others (N, 2), in one of the layers of prompts."""
        positions = self.positions_of(prompts)
        column, row = np.floor(to_points(positions)).astype(int).T
        on_mask = (np.rint(positions[:, 0]) == z) & (np.stack([row, column]) >= 0).all(axis=0)
        on_mask &= (row < mask.shape[0]) & (column < mask.shape[1])
        on_mask[on_mask] = mask[row[on_mask], column[on_mask]]
        return PointsChange(prompts, prompts.data[on_mask], self.points_to_layer(prompts, points, z))

    def new_places(self) -> Points:
        """An empty layer of suggested places."""
        return Points(
            np.zeros((0, self.image.ndim)),
            name=f"{self.image.name} suggested places",
            features={"score": np.zeros(0)},
            size=POINT_SIZE,
            **PLACES,
            **place_of(self.image),
        )


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
