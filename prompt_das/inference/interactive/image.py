"""The image that clicks are on: one slice, with all that decides how the network sees it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from prompt_das.volumes.intensity import check_slice, preprocess, slice_intensity_range

import numpy as np
from numpy.typing import ArrayLike

Range = tuple[float, float]


class SliceImage(NamedTuple):
    """A slice as it is stored, its intensity range and its scale."""

    pixels: np.ndarray  # (H, W) integers or floats
    intensity_range: Range | None  # (lo, hi) that become black and white; None: see slice_intensity_range
    scale: float  # network pixels per image pixel

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def digest(self) -> bytes:
        """The same for images that are the same input of the network, and only for them."""
        settings = (self.pixels.shape, self.pixels.dtype.str, self.intensity_range, self.scale)
        digest = hashlib.blake2b(repr(settings).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.digest()

    def network_input(self) -> np.ndarray:
        """(h, w') float32 gray values 0-255 at the resolution of the network.

        Raises:
            ValueError: pixels that are NaN or infinite, or a range that is none.
        """
        return preprocess(self.pixels, self.scale, self.intensity_range or slice_intensity_range(self.pixels))


def check_image(
    image: ArrayLike, intensity_range: Range | None, scale: float | None, *, pixel_size: float
) -> SliceImage:
    """Check what a caller passes as an image.

    Args:
        image: (H, W), or (H, W, 3 or 4) whose three colors are equal.
        scale: network pixels per image pixel; None if nobody has said it.
        pixel_size: INPUT.PIXEL_SIZE, for the message.

    Raises:
        ValueError: not a slice, an empty one, colors, or no scale.
    """
    if scale is None:
        raise ValueError(
            f"the network takes pixels of {pixel_size:g} nm (INPUT.PIXEL_SIZE): say how large those of your images "
            "are, Predictor(..., pixel_size=8) in nm, or how large an object is in their pixels, "
            "Predictor(..., diameter=36)"
        )
    return SliceImage(check_slice(np.asarray(image)), intensity_range, scale)
