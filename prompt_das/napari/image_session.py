"""An image layer with the layers that belong to it, and what was predicted of its slices.

These are prompts, where the user clicks; instances, the result; and centres that the network suggests. They are
ordinary layers: points may be dragged and deleted, instances painted over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prompt_das.napari.layers import LayerVolume, empty_labels, move_positions, sort_positions, with_slice

import numpy as np
from napari.layers import Image, Labels, Layer, Points

PROMPTS: dict[str, Any] = {"face_color": "#ffd166", "border_color": "black", "symbol": "cross"}
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
        responded: the request, without its image, whose result the instances of a slice are.
        suggested: centres of a slice that were put into the layer; those that are gone from it were judged.
        judged: centres of a slice that shall not be suggested again.
        outside: how many prompts lie outside the image; the user has been notified.
    """

    image: Image
    volume: LayerVolume
    prompts: Points
    instances: Labels
    centers: Points | None = None
    responded: dict[int, Any] = field(default_factory=dict)
    suggested: dict[int, np.ndarray] = field(default_factory=dict)
    judged: dict[int, np.ndarray] = field(default_factory=dict)
    outside: int = 0

    def layers(self) -> list[Layer]:
        return [self.image, self.prompts, self.instances]

    def points(self) -> tuple[dict[int, np.ndarray], int]:
        """Points (x, y) of the slices that have prompts, and how many prompts lie outside."""
        prompts, image = self.prompts, self.image
        positions = move_positions(prompts.data, prompts.data_to_world, image.world_to_data, image.ndim)
        return sort_positions(with_slice(positions), self.volume.shape)

    def new_centers(self) -> Points:
        """An empty layer of suggested centres."""
        return Points(
            np.zeros((0, self.image.ndim)),
            name=f"{self.image.name} suggested centres",
            features={"score": np.zeros(0)},
            size=POINT_SIZE,
            **CENTERS,
            **place_of(self.image),
        )


def new_image_session(image: Image) -> ImageSession:
    """Build the layers of an image, which are in no viewer yet. Raises ValueError if the image is no grey stack."""
    if image.rgb:
        raise ValueError(
            f"layer '{image.name}' is in colour. Electron microscopy is grey: right click on it, 'Split RGB'"
        )
    volume = LayerVolume(finest(image), image.name)
    place = place_of(image)
    shape = volume.shape[-image.ndim :]
    instances = Labels(empty_labels(shape), name=f"{image.name} instances", opacity=0.5, **place)
    prompts = Points(np.zeros((0, image.ndim)), name=f"{image.name} prompts", size=POINT_SIZE, **PROMPTS, **place)
    return ImageSession(image, volume, prompts, instances)


def place_of(image: Image) -> dict[str, Any]:
    """Where the layer lies in the world. For a multi-scale image, its finest level."""
    return {name: getattr(image, name) for name in ("affine", "rotate", "scale", "shear", "translate", "units")}


def finest(image: Image) -> Any:
    """The array of an image layer, at full resolution."""
    return image.data[0] if image.multiscale else image.data


def stack_of(labels: Labels) -> Any:
    """The array (Z, H, W) of a labels layer."""
    return labels.data if labels.ndim == 3 else labels.data[None]
