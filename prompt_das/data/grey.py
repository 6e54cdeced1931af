"""A slice that somebody has in memory, of whatever type, as the grey values that the network knows: 0..255.

H, W: height and width in pixels.
"""

from __future__ import annotations

import numpy as np

from .volumes import intensity_range_of, normalize


def check_slice(image: np.ndarray) -> np.ndarray:
    """One grey slice as it is stored, (H, W); grey stored as colour, (H, W, 3 or 4), gives its one channel.

    Raises:
        ValueError: the shape is not that of one slice, the type is not a number, or the channels of a colour image
            differ.
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        red, green, blue = (image[..., channel] for channel in range(3))  # a fourth one is opacity
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            raise ValueError(
                f"image of shape {image.shape} is in colour: its channels differ. Electron microscopy is grey; "
                "take the channel that you mean, image[..., 0] for example"
            )
        image = red
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}; expected one slice of (height, width), neither of them 0")
    if image.dtype.kind not in "uif":
        raise ValueError(f"image has values of type {image.dtype}; expected integers or floats")
    return image


def grey_values(image: np.ndarray, intensity_range: tuple[float, float] | None = None) -> np.ndarray:
    """Grey values of one slice: (H, W) of :func:`check_slice` -> (H, W) float32 in 0..255.

    Args:
        image: 8-bit values are taken as they are, unless there is an ``intensity_range``.
        intensity_range: (lo, hi) mapped to 0..255. None: for other types the 0.1 and 99.9 percentiles of this slice.
            The slices of one volume should share one range.

    Raises:
        ValueError: a value is NaN or infinite, or the range is not one.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        row, column = np.argwhere(~np.isfinite(image))[0]
        raise ValueError(f"image has the value {image[row, column]} in row {row}, column {column}; expected numbers")
    if intensity_range is None and image.dtype != np.uint8:
        intensity_range = intensity_range_of(image)
    return normalize(image, intensity_range)
