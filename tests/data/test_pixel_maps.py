"""Geometric transforms as arrays: they say of every pixel what the transforms say."""

from __future__ import annotations

from prompt_das.data.augmentation import Elastic, RightAngle
from prompt_das.data.pixel_maps import forward_pixel_map, inverse_pixel_map

import numpy as np
import pytest
from fvcore.transforms.transform import NoOpTransform, Transform, TransformList

SIZE = (24, 37)  # (H, W): not a multiple of the step
RIGHT_ANGLES = [RightAngle(k, flip, *SIZE) for k in range(4) for flip in (False, True)]
CENTERS = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), axis=-1) + 0.5


def elastic(height: int, width: int, seed: int = 0) -> Elastic:
    spacing = 16.0
    grid = (2, *Elastic.grid_size(spacing, height, width))
    return Elastic(np.random.default_rng(seed).uniform(-1.5, 1.5, grid), spacing, height, width)


@pytest.mark.parametrize("transform", [NoOpTransform(), *RIGHT_ANGLES])
def test_right_angles_are_exact(transform: Transform) -> None:
    image = np.random.default_rng(0).random(SIZE)
    np.testing.assert_array_equal(image.ravel()[inverse_pixel_map(transform, *SIZE)], transform.apply_image(image))
    expected = transform.apply_coords(CENTERS.reshape(-1, 2)).reshape(*SIZE, 2)
    np.testing.assert_array_equal(forward_pixel_map(transform, *SIZE), expected)


@pytest.mark.parametrize("side", [8, 96])
def test_elastic_displacements_nearly_so(side: int) -> None:
    """By default control points are 64 pixels apart and move by up to 6."""
    grid = (2, *Elastic.grid_size(64.0, side, side))
    control = np.random.default_rng(0).uniform(-6, 6, grid)
    move = TransformList([RightAngle(1, True, side, side), Elastic(control, 64.0, side, side)])
    centers = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) + 0.5
    expected = move.apply_coords(centers).reshape(side, side, 2)
    targets = forward_pixel_map(move, side, side)
    assert np.abs(targets - expected).max() < 0.1
    assert np.abs(targets - centers.reshape(side, side, 2)).max() > 1


def test_both_maps_belong_together() -> None:
    """Where a pixel goes, it is seen: to within the rounding to whole pixels."""
    move = TransformList([RightAngle(3, False, 96, 96), elastic(96, 96)])
    sources, targets = inverse_pixel_map(move, 96, 96), forward_pixel_map(move, 96, 96)
    rows, columns = np.mgrid[24:72, 24:72]
    x, y = targets[rows, columns].astype(int).reshape(-1, 2).T
    seen = np.stack(np.unravel_index(sources[y, x], (96, 96)))
    assert np.abs(seen - np.stack([rows.ravel(), columns.ravel()])).max() <= 1
