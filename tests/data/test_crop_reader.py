"""Square crops of a slice: where they lie, and what is in them."""

from __future__ import annotations

from prompt_das.data import crop_reader
from prompt_das.data.crop_reader import CropReader

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_crop_lies_in_the_slice_and_holds_the_point_that_it_must(
    height: int, width: int, size: int, data: st.DataObject
) -> None:
    d = {"height": height, "width": width}
    rng = np.random.default_rng(data.draw(st.integers(0, 5)))
    x = data.draw(st.floats(0, width, width=32))  # a point may lie on the right border, outside of the last pixel
    y = data.draw(st.floats(0, height, width=32))
    y0, x0, y1, x1 = CropReader(size, 1.0).box(d, rng, np.array([x, y], np.float32))
    assert (y1 - y0, x1 - x0) == (min(size, height), min(size, width))
    assert 0 <= y0 <= y <= y1 <= height
    assert 0 <= x0 <= x <= x1 <= width


def test_crops_come_from_everywhere() -> None:
    rng = np.random.default_rng(0)
    corners = {CropReader(2, 1.0).box({"height": 4, "width": 5}, rng)[:2] for _ in range(300)}
    assert corners == {(y, x) for y in range(3) for x in range(4)}


def test_a_crop_around_a_point_shows_it_anywhere() -> None:
    """Not always in the middle: the network would learn where to look."""
    rng = np.random.default_rng(0)
    where = {
        (10 - y0, 20 - x0)
        for y0, x0, _, _ in (
            CropReader(3, 1.0).box({"height": 40, "width": 40}, rng, np.array([20.5, 10.5])) for _ in range(200)
        )
    }
    assert where == {(y, x) for y in range(3) for x in range(3)}


def test_a_crop_at_half_resolution_covers_twice_the_pixels() -> None:
    crop = CropReader(16, 0.5)
    y0, x0, y1, x1 = crop.box({"height": 100, "width": 100}, np.random.default_rng(0))
    assert (y1 - y0, x1 - x0) == (32, 32)
    assert crop.fit_mask(np.zeros((32, 32), np.uint8)).shape == (16, 16)


def test_a_slice_smaller_than_a_crop_is_reflected_and_its_mask_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = np.array([[1, 2, 3]], np.float32), np.array([[0, 7, 7]])
    monkeypatch.setattr(crop_reader, "read_image", lambda *_: image)
    crop = CropReader(5, 1.0)
    assert crop.read_image({}, (0, 0, 1, 3)).tolist() == [[1, 2, 3, 3, 2]] * 5
    assert crop.fit_mask(labels).tolist() == [[0, 1, 1, 0, 0]] + [[0] * 5] * 4


def test_points_of_a_crop_by_hand() -> None:
    """At half resolution, the crop's corner at (x 10, y 20): (14, 26) is at ((14 - 10) / 2, (26 - 20) / 2)."""
    points = np.array([[14, 26], [9.9, 26], [10, 20], [18, 26], [14, 28]], np.float32)
    inside = CropReader(4, 0.5).points(points, (20, 10, 28, 18))
    assert inside.tolist() == [[2, 3], [0, 0]]
    assert inside.dtype == np.float32
