"""At which scale the network gets an image layer: by what the user states, or the layer's voxel size."""

from __future__ import annotations

from prompt_das.data.physical_scale import NetworkScale, scale_of_diameter
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.napari.image_session import ImageSession


def asks_for_size(predictor: Predictor | None) -> bool:
    """Whether the network was trained at one physical scale (INPUT.PIXEL_SIZE)."""
    return predictor is not None and predictor.cfg.INPUT.PIXEL_SIZE > 0


def diameter_of(predictor: Predictor | None, image_session: ImageSession) -> float | None:
    """Typical diameter of an object in pixels of the image; None where the user states no size, or it does not count.

    A pixel size that the user states is turned into a diameter: nothing is said of the thickness of the slices, so
    that it must not be written to files as a voxel size.
    """
    if predictor is None or not asks_for_size(predictor):
        return None
    if image_session.pixel_size:
        return predictor.cfg.INPUT.DIAMETER * predictor.cfg.INPUT.PIXEL_SIZE / image_session.pixel_size
    return image_session.diameter or None


def scale_of(predictor: Predictor, image_session: ImageSession) -> float:
    """Network pixels per pixel of the image. Raises ValueError, in the plugin's words, where it cannot be known."""
    network, name = NetworkScale.from_config(predictor.cfg), f"'{image_session.image.name}'"
    if asks_for_size(predictor) and image_session.pixel_size:
        return NetworkScale(pixel_size=network.pixel_size).of((image_session.pixel_size,) * 3, name)
    diameter = diameter_of(predictor, image_session)
    if diameter is not None:
        return scale_of_diameter(predictor.cfg, diameter)
    if predictor.scale is not None:
        return predictor.scale
    if image_session.voxel_size is None:
        raise ValueError(
            f"How large are the pixels of {name}? Set their size in nm, or the diameter of a typical object in pixels: "
            "'From a line' measures it"
        )
    return network.of(image_session.voxel_size, name)


def describe_scale(predictor: Predictor | None, image_session: ImageSession | None) -> str:
    """What decides the scale of an image, in a line for the user; "" where nothing does, or nothing needs to."""
    if predictor is None or image_session is None or not asks_for_size(predictor):
        return ""
    try:
        scale = scale_of(predictor, image_session)
    except ValueError:
        return ""
    if image_session.pixel_size:
        reason = f"Pixels of {image_session.pixel_size:g} nm, as stated"
    elif image_session.diameter:
        reason = f"Objects of {image_session.diameter:g} px, as stated"
    elif predictor.scale is not None or image_session.voxel_size is None:
        reason = "The network's own scale"
    else:
        source = "layer" if image_session.voxel_size_of_layer is not None else "file"
        reason = f"Pixels of {image_session.voxel_size[-1]:g} nm, from the {source}"
    return f"{reason}: × {scale:.2f}"
