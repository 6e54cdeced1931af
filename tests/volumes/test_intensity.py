"""Slices of every type that a microscope or a viewer may have, as the network takes them: float32 in 0..255."""

from __future__ import annotations

from pathlib import Path

from prompt_das.volumes.intensity import (
    check_slice,
    estimate_intensity_range,
    normalize,
    percentile_range,
    preprocess,
    read_preprocessed,
    slice_intensity_range,
)
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.resize import resize_image, resize_labels
from prompt_das.volumes.volume import VolumeError

import numpy as np
import pytest
import tifffile

RAMP = np.arange(0, 256, 5, dtype=np.uint8).reshape(4, 13)


# ---- normalization


def test_eight_bits_keep_their_values() -> None:
    assert normalize(RAMP).dtype == np.float32
    np.testing.assert_array_equal(normalize(RAMP), RAMP)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_range_is_mapped_to_0_255_and_clipped(dtype: str) -> None:
    intensities = np.array([0, 50, 75, 100, 120], dtype)
    np.testing.assert_allclose(normalize(intensities, (50, 100)), [0, 0, 127.5, 255, 255])


@pytest.mark.parametrize(
    ("dtype", "gain", "offset"),
    [
        *((np.uint16, 200, 1000), (np.int16, 20, -2000), (np.float64, 0.001, -0.2)),
        # Float32 keeps 24 bits: of these, far from zero, it would keep no contrast.
        *((np.int32, 1, -(2**31)), (np.uint32, 1, 4_000_000_000), (np.int64, 1, 2**50), (np.float64, 1e-3, 1e6)),
    ],
)
def test_a_range_maps_other_types_to_the_same_intensities(dtype: type, gain: float, offset: float) -> None:
    image = (RAMP.astype(float) * gain + offset).astype(dtype)
    np.testing.assert_allclose(normalize(image, (offset, offset + 255 * gain)), RAMP, atol=1e-3)


def test_other_types_without_a_range_are_an_error() -> None:
    with pytest.raises(ValueError, match="uint16 intensities need an intensity range"):
        normalize(np.zeros(3, np.uint16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_a_range_that_goes_down_inverts(dtype: type) -> None:
    np.testing.assert_allclose(normalize(RAMP.astype(dtype), (255, 0)), 255 - RAMP.astype(float))
    narrow = normalize(RAMP.astype(dtype), (160, 90))
    np.testing.assert_allclose(narrow, 255 - normalize(RAMP, (90, 160)), atol=1e-4)


def test_a_range_has_two_ends() -> None:
    with pytest.raises(ValueError, match=r"intensity_range is \(5, 5\); what becomes black and what becomes white"):
        normalize(RAMP, (5, 5))


# ---- preprocessing


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_are_averaged_and_opacity_is_ignored(channels: int) -> None:
    image = np.stack([RAMP, RAMP // 2, RAMP // 4, RAMP], axis=-1)[..., :channels]
    np.testing.assert_allclose(preprocess(image, 1.0), image[..., :3].mean(axis=-1), rtol=1e-6)


@pytest.mark.parametrize(("scale", "size"), [(1.0, (5, 8)), (0.5, (3, 4)), (2.0, (10, 16)), (0.01, (1, 1))])
def test_sides_are_rounded_up(scale: float, size: tuple[int, int]) -> None:
    assert preprocess(np.zeros((5, 8), np.uint8), scale).shape == size
    assert resize_labels(np.zeros((5, 8), np.uint8), scale).shape == size


def test_shrinking_takes_the_mean_of_an_area() -> None:
    assert resize_image(np.array([[0, 2], [4, 6]], np.float32), 0.5).tolist() == [[3]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_pixel_that_is_no_intensity_is_named(value: float) -> None:
    image = np.zeros((4, 4))
    image[2, 3] = value
    with pytest.raises(
        ValueError, match=rf"1 of 16 pixels .* the first is {value:g} in row 2, column 3".replace("+", r"\+")
    ):
        preprocess(image, 1.0, (0, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_a_tiff_shows_white_becomes_white(tmp_path: Path, dtype: str) -> None:
    image, intensity_range = RAMP.astype(dtype), None if dtype == "uint8" else (0, 255)
    (tmp_path / "slices").mkdir()
    for path in (tmp_path / "v.tif", tmp_path / "slices" / "0.tif"):
        tifffile.imwrite(path, image, photometric="miniswhite")
    for path in (tmp_path / "v.tif", tmp_path / "slices"):
        volume = open_volume(path)
        np.testing.assert_array_equal(read_preprocessed(volume, 0, None, intensity_range), 255 - RAMP.astype(float))
        np.testing.assert_array_equal(volume.read(0), image)  # ids stay what they are


def test_slices_of_a_folder_agree_in_what_is_white(tmp_path: Path) -> None:
    for name in ("miniswhite", "minisblack"):
        tifffile.imwrite(tmp_path / f"{name}.tif", RAMP, photometric=name)
    volume = open_volume(tmp_path)
    with pytest.raises(VolumeError, match=r"miniswhite\.tif \(slice 1\) shows 0 white, but minisblack\.tif .* black"):
        volume.read(1)


# ---- one slice from memory


@pytest.mark.parametrize("channels", [3, 4])
def test_equal_colors_give_one_channel(channels: int) -> None:
    image = np.repeat(RAMP[..., None], channels, axis=-1)
    image[..., 3:] = 255  # opacity
    assert np.array_equal(check_slice(image), RAMP)


COLORED = np.stack([RAMP, RAMP, RAMP + 1], axis=-1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLORED, r"shape \(4, 13, 3\) is in color: its channels differ.*image\[\.\.\., 0\]"),
        (np.zeros((5, 8, 8)), r"shape \(5, 8, 8\); expected one slice"),
        (np.zeros(8), r"shape \(8,\); expected one slice"),
        (np.zeros((0, 8)), r"shape \(0, 8\).*neither of them 0"),
        (np.zeros((4, 4), bool), "values of type bool"),
        (np.zeros((4, 4), complex), "values of type complex128"),
    ],
)
def test_what_is_no_slice_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_slice(image)


# ---- ranges


def test_the_range_of_a_slice_ignores_a_hot_pixel() -> None:
    image = np.linspace(3000, 5000, 10_000).reshape(100, 100).astype(np.uint16)
    image[0, 0] = 65535
    intensities = normalize(image, slice_intensity_range(image))
    assert intensities[50, 0] == pytest.approx(127.5, abs=0.5)
    assert (intensities.min(), intensities.max()) == (0, 255)


def test_the_range_of_a_slice_ignores_fill_values() -> None:
    image = np.linspace(0, 1, 400).reshape(20, 20)
    image[0], image[1], image[2] = np.nan, np.inf, 1e300
    assert slice_intensity_range(image) == pytest.approx((image[3, 0], 1), abs=1e-2)
    assert slice_intensity_range(np.full((2, 2), np.nan)) is None


def test_eight_bits_need_no_range() -> None:
    assert slice_intensity_range(RAMP) is None


def test_the_estimated_range_ignores_a_few_hot_pixels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(1000, 2000, (20, 64, 64)).astype(np.uint16)
    array[:, 0, 0] = 65535
    tifffile.imwrite(tmp_path / "volume.tif", array)
    lo, hi = estimate_intensity_range(open_volume(tmp_path / "volume.tif"))
    assert 1000 <= lo < 1005
    assert 1995 < hi < 2000


@pytest.mark.parametrize("value", [7, 1e-12, 1e15, -1e15])
def test_a_constant_has_a_range_too(value: float) -> None:
    constant = np.full((8, 8), value)
    assert (normalize(constant, percentile_range(constant)) == 0).all()


def test_a_narrow_range_stays_narrow() -> None:
    assert percentile_range(np.array([0, 1e-9])) == pytest.approx((1e-12, 0.999e-9))


def test_a_mask_for_an_image_has_a_range_too() -> None:
    assert percentile_range(np.array([[True, False]])) == pytest.approx((0.001, 0.999))
