"""Slices on disk and in memory, of every type that a microscope or a viewer may have, as grey values of 0..255."""

from __future__ import annotations

from pathlib import Path

from prompt_das.volumes.intensity import (
    check_slice,
    estimate_intensity_range,
    intensity_range_of,
    normalize,
    normalize_slice,
)
from prompt_das.volumes.volume import open_volume

import numpy as np
import pytest
import tifffile

RAMP = np.arange(0, 256, 5, dtype=np.uint8).reshape(4, 13)


def test_eight_bits_are_taken_as_they_are() -> None:
    grey = normalize_slice(check_slice(RAMP))
    assert grey.dtype == np.float32
    assert np.array_equal(grey, RAMP)


@pytest.mark.parametrize(
    ("dtype", "gain", "offset"), [(np.uint16, 200, 1000), (np.int16, 20, -2000), (np.float64, 0.001, -0.2)]
)
def test_a_range_maps_other_types_to_the_same_grey_values(dtype: type, gain: float, offset: float) -> None:
    image = (RAMP.astype(float) * gain + offset).astype(dtype)
    grey = normalize_slice(check_slice(image), (offset, offset + 255 * gain))
    np.testing.assert_allclose(grey, RAMP, atol=1e-3)


def test_without_a_range_the_percentiles_of_the_slice_are_black_and_white() -> None:
    image = np.linspace(3000, 5000, 10_000).reshape(100, 100).astype(np.uint16)
    image[0, 0] = 65535  # a hot pixel
    grey = normalize_slice(check_slice(image))
    assert grey[50, 0] == pytest.approx(127.5, abs=0.5)
    assert (grey.min(), grey.max()) == (0, 255)


def test_a_range_is_used_for_eight_bits_too() -> None:
    assert normalize_slice(check_slice(RAMP), (0, 127.5)).ravel()[:3].tolist() == [0, 10, 20]


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_that_is_stored_as_colour(channels: int) -> None:
    image = np.repeat(RAMP[..., None], channels, axis=-1)
    image[..., 3:] = 255  # opacity
    assert np.array_equal(check_slice(image), RAMP)


COLOUR = np.stack([RAMP, RAMP, RAMP + 1], axis=-1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOUR, r"shape \(4, 13, 3\) is in colour: its channels differ.*image\[\.\.\., 0\]"),
        (np.zeros((5, 8, 8)), r"shape \(5, 8, 8\); expected one slice"),
        (np.zeros(8), r"shape \(8,\); expected one slice"),
        (np.zeros((0, 8)), r"shape \(0, 8\).*neither of them 0"),
        (np.zeros((4, 4), bool), "values of type bool"),
        (np.zeros((4, 4), complex), "values of type complex128"),
    ],
)
def test_what_is_no_grey_slice_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_slice(image)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_found(value: float) -> None:
    image = np.zeros((4, 4), np.float32)
    image[2, 3] = value
    with pytest.raises(ValueError, match=f"the value {value} in row 2, column 3"):
        normalize_slice(image)


def test_a_range_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"lo < hi, not \(5, 5\)"):
        normalize_slice(RAMP, (5, 5))


# ---- the normalisation


def test_eight_bits_pass_as_they_are() -> None:
    grey = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(normalize(grey), grey.astype(np.float32))
    assert normalize(grey).dtype == np.float32


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_range_is_mapped_to_0_255_and_clipped(dtype: str) -> None:
    grey = np.array([0, 50, 75, 100, 120], dtype)
    np.testing.assert_allclose(normalize(grey, (50, 100)), [0, 0, 127.5, 255, 255])


def test_sixteen_bits_without_a_range_are_an_error() -> None:
    with pytest.raises(ValueError, match="intensity_range"):
        normalize(np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match="lo < hi"):
        normalize(np.zeros(3, np.uint16), (5, 5))


def test_the_estimated_range_ignores_a_few_hot_pixels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(1000, 2000, (20, 64, 64)).astype(np.uint16)
    array[:, 0, 0] = 65535
    tifffile.imwrite(tmp_path / "volume.tif", array)
    lo, hi = estimate_intensity_range(open_volume(tmp_path / "volume.tif"))
    assert 1000 <= lo < 1005
    assert 1995 < hi < 2000


def test_an_even_volume_has_a_range_as_well(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "volume.tif", np.full((2, 8, 8), 7, np.uint16))
    volume = open_volume(tmp_path / "volume.tif")
    assert (normalize(volume.read(0), estimate_intensity_range(volume)) == 0).all()


def test_a_mask_for_an_image_has_a_range_too() -> None:
    assert intensity_range_of(np.array([[True, False]])) == pytest.approx((0.001, 0.999))
