"""Intensities as the network takes them, float32 in 0..255, from slices of any type, on disk or in memory.

One function prepares whatever is fed to the network, :func:`preprocess`: 8-bit intensities keep their values, others
are mapped linearly from an intensity range to 0..255 and clipped, then the slice is resized to the network's scale.

H, W: height and width in pixels; H', W': the same at the network's scale; h, w: of a box of a slice, see
:mod:`prompt_das.volumes.volume`.
"""

from __future__ import annotations

from prompt_das.volumes.resize import resize_image
from prompt_das.volumes.volume import Box, Volume, VolumeError

import numpy as np

Range = tuple[float, float]

_LARGEST = float(np.finfo(np.float32).max)  # beyond it no intensity is meant: files use such values for "no data"


def preprocess(image: np.ndarray, scale: float, intensity_range: Range | None = None) -> np.ndarray:
    """The network's input: a slice or a crop as it is stored -> (H', W') float32 in 0..255.

    Args:
        image: (H, W), or (H, W, 3 or 4) in color, whose colors are averaged.
        scale: network pixels per image pixel; sides are rounded up.
        intensity_range: see :func:`normalize`.

    Raises:
        ValueError: a pixel is NaN, infinite or beyond float32, or as :func:`normalize`.
    """
    _require_finite(image)
    image = normalize(image, intensity_range)
    image = image[..., :3].mean(axis=-1) if image.ndim == 3 else image
    return np.ascontiguousarray(resize_image(image, scale))


def normalize(array: np.ndarray, intensity_range: Range | None = None) -> np.ndarray:
    """Intensities of any type -> float32 in 0..255, of the same shape.

    `intensity_range` (lo, hi) is mapped linearly to (0, 255), values outside are clipped; where lo is above hi the
    image is inverted. Without a range, uint8 passes as it is, and every other type is an error, since the meaning of
    its values is unknown.
    """
    if intensity_range is None:
        if array.dtype != np.uint8:
            raise ValueError(
                f"{array.dtype} intensities need an intensity range (lo, hi) that is mapped to 0..255: "
                "set intensity_range, or take estimate_intensity_range(volume)"
            )
        return array.astype(np.float32)
    lo, hi = map(float, intensity_range)
    if lo == hi:
        raise ValueError(f"intensity_range is ({lo:g}, {hi:g}); what becomes black and what becomes white must differ")
    # Far from zero, what float32 keeps of a wide value may be less than its contrast: subtract first.
    exact: type[np.floating] = np.float32 if np.can_cast(array.dtype, np.float32) else np.float64
    return np.clip((array.astype(exact) - lo) * (255.0 / (hi - lo)), 0.0, 255.0).astype(np.float32)


def percentile_range(values: np.ndarray) -> Range:
    """(lo, hi): the 0.1 and 99.9 percentiles of finite values."""
    if values.dtype == bool:  # a mask for an image: NumPy has no percentiles of it
        values = values.astype(np.uint8)
    lo, hi = map(float, np.percentile(values, (0.1, 99.9)))
    return lo, hi if hi > lo else lo + max(1e-6, 2 * float(np.spacing(abs(lo))))


def slice_intensity_range(image: np.ndarray) -> Range | None:
    """The range of a slice by itself: None for 8 bits, else the 0.1 and 99.9 percentiles of its finite pixels.

    The slices of one volume should share one range, see :func:`estimate_intensity_range`.
    """
    finite = image[_is_finite(image)]
    return None if image.dtype == np.uint8 or not finite.size else percentile_range(finite)


def estimate_intensity_range(volume: Volume) -> Range:
    """(lo, hi): the 0.1 and 99.9 percentiles of up to 8 evenly spaced slices.

    Unreadable slices and pixels that are not finite are skipped. Raises VolumeError if nothing is left.
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
        values.append(array[_is_finite(array)])
    if not sum(map(len, values)):
        raise VolumeError(
            f"{volume.path}: no intensities in the slices {slices}, so intensity_range must be set: {reason}"
        ) from reason
    return percentile_range(np.concatenate(values))


def read_preprocessed(
    volume: Volume, z: int, box: Box | None = None, intensity_range: Range | None = None, scale: float = 1.0
) -> np.ndarray:
    """:func:`preprocess` of slice z or of its box, white on black where the volume says that its minimum is white.

    Raises VolumeError for a slice that cannot be read, and for pixels that are not finite: a network would spread them.
    """
    array = volume.read(z, box)
    try:
        image = preprocess(array, scale, intensity_range)
    except ValueError as error:
        raise VolumeError(f"{volume.name_of(z)}: {error}") from error
    return 255 - image if volume.min_is_white else image


def check_slice(image: np.ndarray) -> np.ndarray:
    """One slice as it is stored, (H, W); (H, W, 3 or 4) with equal colors gives its one channel.

    Raises:
        ValueError: the shape is not that of one slice, the type is not a number, or the channels of a color image
            differ.
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        red, green, blue = (image[..., channel] for channel in range(3))  # a fourth one is opacity
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            raise ValueError(
                f"image of shape {image.shape} is in color: its channels differ. Electron micrographs have one "
                "channel; take the one that you mean, image[..., 0] for example"
            )
        image = red
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}; expected one slice of (height, width), neither of them 0")
    if image.dtype.kind not in "uif":
        raise ValueError(f"image has values of type {image.dtype}; expected integers or floats")
    return image


def _is_finite(array: np.ndarray) -> np.ndarray:
    """Where an array holds intensities: neither NaN, nor infinite, nor beyond float32."""
    if array.dtype.kind != "f":
        return np.ones(array.shape, bool)
    return np.abs(array) <= _LARGEST


def _require_finite(image: np.ndarray) -> None:
    if image.dtype.kind != "f":
        return
    bad = ~_is_finite(image)
    count = np.count_nonzero(bad)
    if count:
        row, column = np.argwhere(bad)[0][:2]
        raise ValueError(
            f"{count} of {image.size} pixels are NaN, infinite or beyond 3.4e38, the first is {image[bad][0]:g} in row "
            f"{row}, column {column}. Replace them, or leave the slice out."
        )
