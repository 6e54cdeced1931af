"""Images, labels and masks at the scale of the network lie upon each other."""

from __future__ import annotations

from prompt_das.volumes.resize import resize_image, resize_labels, resize_mask

import numpy as np
import pytest

SCALES = [0.21, 0.25, 0.5, 0.8, 1.0, 1.7]


def disc() -> np.ndarray:
    """A disc of 41 pixels, not in the middle of (96, 120), as bool."""
    rows, columns = np.mgrid[:96, :120] + 0.5
    return np.asarray((rows - 40) ** 2 + (columns - 61) ** 2 < 20.5**2)


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """(x, y) as a fraction of the width and height."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weights = image / image.sum()
    return np.array([(columns * weights).sum() / image.shape[1], (rows * weights).sum() / image.shape[0]])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("resize", [resize_image, resize_labels, resize_mask])
def test_nothing_is_shifted(resize: object, scale: float) -> None:
    """At 0.25 the labels of OpenCV's INTER_NEAREST would lie 1.5 pixels to the lower right."""
    assert callable(resize)
    image = disc().astype(np.float32) if resize is resize_image else disc().astype(np.uint8)
    shift = (center_of_mass(resize(image, scale)) - center_of_mass(disc())) * (120, 96)
    assert np.abs(shift).max() < 0.75  # pixels of the image: a nearest one may be half a pixel away


@pytest.mark.parametrize("scale", SCALES)
def test_a_mask_keeps_its_area(scale: float) -> None:
    assert resize_mask(disc(), scale).mean() == pytest.approx(disc().mean(), rel=0.03)


def test_a_pixel_is_foreground_if_half_of_it_is() -> None:
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0]], bool)  # three, two and one of four pixels
    assert resize_mask(mask, 0.5).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_labels_keep_their_ids(dtype: type) -> None:
    labels = np.kron(np.array([[0, 200], [3, 7]]), np.ones((4, 4))).astype(dtype)
    assert resize_labels(labels, 0.5).tolist() == np.kron([[0, 200], [3, 7]], np.ones((2, 2), int)).tolist()
