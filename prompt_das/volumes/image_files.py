"""One image file -> one array. What the file holds decides how it is decoded, not its suffix.

A damaged file must fail, not give a picture whose end is missing: OpenCV checks a PNG to its last byte, but decodes
what is left of a JPEG.

Errors are ValueError, with what is wrong but not where, or whatever the decoder raises: volume.py turns them into
VolumeError and adds the path.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from prompt_das.volumes import tiff
from prompt_das.volumes.memory_limit import require_memory

import cv2
import numpy as np
from tifffile import TiffFile

_PNG, _BMP, _JPEG = b"\x89PNG", b"BM", b"\xff\xd8\xff"
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


class DecodedImage(NamedTuple):
    """(h, w) intensities or ids, or (h, w, 3 or 4) RGB(A), in the stored type, and whether 0 is shown white."""

    array: np.ndarray
    min_is_white: bool = False


def decode_image(path: Path) -> DecodedImage:
    """The image in a PNG, TIFF, BMP or JPEG file."""
    min_is_white = False
    if not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        start = file.read(4)
    if start in tiff.SIGNATURES:
        with TiffFile(path) as tif:
            series = tiff.first_series(tif)
            require_memory(series.nbytes)
            array = tiff.decode_all(series)
            min_is_white = tiff.is_min_is_white(series)
    elif start.startswith((_PNG, _BMP, _JPEG)):
        if start.startswith(_JPEG):
            _require_end_of_jpeg(path.read_bytes())
        array = _decode_with_opencv(path)
    else:
        raise ValueError("it is neither PNG, TIFF, BMP nor JPEG" if start else "it is empty")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"it is {describe(array)}: expected one slice with one channel or three per file")
    return DecodedImage(array, min_is_white)


def describe(array: np.ndarray) -> str:
    """Shape and type for messages: 70 x 45 uint8."""
    return f"{' x '.join(map(str, array.shape))} {array.dtype}"


def decode_rgb_ids(array: np.ndarray) -> np.ndarray:
    """RGB-coded instance ids (..., 3 or 4), uint8 -> (...) uint32: R * 65536 + G * 256 + B. Alpha is ignored."""
    if array.shape[-1] not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(f"RGB-coded ids must be uint8 (..., 3), not {array.dtype} {array.shape}")
    red, green, blue = (array[..., channel].astype(np.uint32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def _decode_with_opencv(path: Path) -> np.ndarray:
    decoded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("it is damaged or incomplete")
    return np.ascontiguousarray(decoded[..., [2, 1, 0]]) if decoded.ndim == 3 else decoded  # cv2 gives BGR(A)


def _require_end_of_jpeg(content: bytes) -> None:
    # Neither marker can occur within a scan. A thumbnail in the header has its own end, before the picture's scan.
    if content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN):
        raise ValueError("it ends within the picture")
