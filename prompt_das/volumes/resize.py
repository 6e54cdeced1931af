"""Slices and label maps at the scale of the network."""

from __future__ import annotations

import math

import cv2
import numpy as np


def resize_image(image: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) at ``scale`` network pixels per image pixel: area means when it shrinks, else bilinear."""
    return _resize(image, scale, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) ids at ``scale`` network pixels per image pixel: those at the centers of its pixels."""
    # OpenCV's plain INTER_NEAREST takes their upper left corners: at 0.25 all borders move by 1.5 image pixels.
    return _resize(labels, scale, cv2.INTER_NEAREST_EXACT)


def resize_mask(mask: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) bool at ``scale`` network pixels per image pixel -> uint8, 1 where at least half of a pixel is."""
    return (resize_image(mask.astype(np.uint8) * 255, scale) > 127).astype(np.uint8)


def _resize(array: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    if scale == 1:
        return array
    # Rounded first: 30 pixels at 0.1, or at 8.000000000000002 nm of 16, are not one more for the sake of the last bit.
    height, width = (max(1, math.ceil(round(side * scale, 6))) for side in array.shape)
    return cv2.resize(array, (width, height), interpolation=interpolation)
