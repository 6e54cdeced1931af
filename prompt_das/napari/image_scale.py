"""At which scale the network gets an image layer: by the diameter that the user states, or the layer's voxel size."""

from __future__ import annotations

from prompt_das.data.physical_scale import NetworkScale, scale_of_diameter
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.napari.image_session import ImageSession


def asks_for_size(predictor: Predictor | None) -> bool:
    """Whether the network was trained at one physical scale (INPUT.PIXEL_SIZE)."""
    return predictor is not None and predictor.cfg.INPUT.PIXEL_SIZE > 0


def diameter_of(predictor: Predictor | None, image_session: ImageSession) -> float | None:
    """Typical diameter of an object in pixels of the image; None where the user states none, or it does not count."""
    return (image_session.diameter or None) if asks_for_size(predictor) else None


def scale_of(predictor: Predictor, image_session: ImageSession) -> float:
    """Network pixels per pixel of the image. Raises ValueError, in the plugin's words, where it cannot be known."""
    diameter = diameter_of(predictor, image_session)
    if diameter is not None:
        return scale_of_diameter(predictor.cfg, diameter)
    if predictor.scale is not None:
        return predictor.scale
    if image_session.voxel_size is None:
        raise ValueError(
            f"How large are the pixels of '{image_session.image.name}'? Set the diameter of a typical object, or the "
            "scale and units of the layer"
        )
    return NetworkScale.from_config(predictor.cfg).of(image_session.voxel_size, f"'{image_session.image.name}'")
