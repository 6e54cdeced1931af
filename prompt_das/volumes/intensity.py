"""Grey values as the network knows them, float32 in 0..255, from slices on disk or in memory, of whatever type.

One normalisation serves the whole package (`normalize`): 8-bit volumes keep their values; anything else is mapped
linearly from an intensity range to 0..255 and clipped.

H, W: height and width in pixels; h, w: of a box of a slice, see :mod:`prompt_das.volumes.volume`.
"""

from __future__ import annotations

from prompt_das.volumes.volume import Box, Volume, VolumeError

import numpy as np


def normalize(array: np.ndarray, intensity_range: tuple[float, float] | None = None) -> np.ndarray:
    """Grey values of any type -> float32 in 0..255, of the same shape.

    `intensity_range` (lo, hi) is mapped linearly to (0, 255), values outside are clipped. Without a range, uint8
    passes as it is, and every other type is an error: nobody knows what its values mean.
    """
    if intensity_range is None:
        if array.dtype != np.uint8:
            raise ValueError(
                f"{array.dtype} grey values need an intensity range (lo, hi) that is mapped to 0..255: "
                "set intensity_range, or take estimate_intensity_range(volume)"
            )
        return array.astype(np.float32)
    lo, hi = map(float, intensity_range)
    if not hi > lo:
        raise ValueError(f"intensity_range must be (lo, hi) with lo < hi, not ({lo:g}, {hi:g})")
    return np.clip((array.astype(np.float32) - lo) * (255.0 / (hi - lo)), 0.0, 255.0).astype(np.float32)


def intensity_range_of(values: np.ndarray) -> tuple[float, float]:
    """(lo, hi): the 0.1 and 99.9 percentiles of finite values."""
    if values.dtype == bool:  # a mask for an image: NumPy has no percentiles of it
        values = values.astype(np.uint8)
    lo, hi = np.percentile(values, (0.1, 99.9))
    return float(lo), float(max(hi, lo + 1e-6))


def estimate_intensity_range(volume: Volume) -> tuple[float, float]:
    """(lo, hi): the 0.1 and 99.9 percentiles of up to 8 evenly spaced slices.

    Unreadable slices and pixels that are not finite are left out. Raises VolumeError if nothing is left.
    """
    depth = volume.shape[0]
    slices = np.unique(np.linspace(0, depth - 1, min(8, depth)).round().astype(int)).tolist()
    values, reason = [], VolumeError("no pixel is finite")
    for z in slices:
        try:
            array = volume.read(z)
        except VolumeError as error:
            reason = error
            continue
        values.append(array[np.isfinite(array)])
    if not sum(map(len, values)):
        raise VolumeError(
            f"{volume.path}: no grey values in the slices {slices}, so intensity_range must be set: {reason}"
        ) from reason
    return intensity_range_of(np.concatenate(values))


def read_normalized(
    volume: Volume, z: int, box: Box | None = None, intensity_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Grey values of slice z or of its box: (h, w) float32 in 0..255, see `normalize`. Colours are averaged.

    Raises VolumeError for a slice that cannot be read, and for pixels that are not finite: a network would spread them.
    """
    array = volume.read(z, box)
    if array.dtype.kind == "f":
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise VolumeError(
                f"{volume.name_of(z)}: {bad} of {array.size} pixels are NaN or infinite. Replace them, or leave it out."
            )
    array = normalize(array, intensity_range)
    return array[..., :3].mean(axis=-1) if array.ndim == 3 else array  # grey stored as colour


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


def normalize_slice(image: np.ndarray, intensity_range: tuple[float, float] | None = None) -> np.ndarray:
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
