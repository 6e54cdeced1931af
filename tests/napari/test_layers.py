"""Positions of a viewer and points of a slice; layers as volumes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from prompt_das.napari.layers import (
    LayerVolume,
    affine_of,
    empty_labels,
    move_positions,
    sort_clicks,
    to_points,
    to_positions,
    with_slice,
)
from prompt_das.volumes.volume import VolumeError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

coordinates = st.floats(-1000, 1000, width=32)


def import_without_extras() -> None:
    """In a process that has training and prediction imported."""
    extras = {"napari", "qtpy", "PySide6", "dask"}
    assert not extras & sys.modules.keys()
    sys.modules |= dict.fromkeys(extras)
    for name in ("napari.session", "napari.samples", "engine.project"):
        importlib.import_module(f"prompt_das.{name}")


@pytest.mark.long
def test_without_napari_the_package_and_the_session_work(start_process: Callable[..., Any]) -> None:
    """The extra is for those who click: nothing else may ask for it."""
    process = start_process(import_without_extras)
    process.join()
    assert process.exitcode == 0


def test_napari_counts_from_the_center_of_the_first_voxel() -> None:
    positions = np.array([[2.0, 0.0, 0.0], [2.4, 10.0, 20.5], [0.0, 5.0, 5.0]])
    clicks, outside = sort_clicks(positions, np.array([1, 0, 1]), (3, 40, 50))
    assert outside == 0
    assert sorted(clicks) == [0, 2]
    assert clicks[2].tolist() == [[0.5, 0.5, 1], [21.0, 10.5, 0]]  # (x, y, label)
    assert to_positions(clicks[2][:, :2], 2).tolist() == [[2, 0, 0], [2, 10, 20.5]]


@pytest.mark.parametrize(
    "position", [(-0.6, 5, 5), (2.6, 5, 5), (1, -0.51, 5), (1, 5, -0.51), (1, 39.5, 5), (1, 5, 49.5)]
)
def test_a_point_outside_is_counted_and_left_out(position: tuple[float, float, float]) -> None:
    clicks, outside = sort_clicks(np.array([position, (1, 39.4, 49.4)]), np.array([1, 0]), (3, 40, 50))
    assert outside == 1
    assert list(clicks) == [1]
    assert clicks[1][:, 2].tolist() == [0]


def test_no_points() -> None:
    assert sort_clicks(np.zeros((0, 3)), np.zeros(0), (3, 40, 50)) == ({}, 0)


def test_an_image_that_is_no_stack_is_slice_0() -> None:
    assert with_slice(np.array([[3.0, 4.0]])).tolist() == [[0, 3, 4]]
    assert with_slice(np.zeros((0, 2))).shape == (0, 3)


@given(arrays(float, (5, 2), elements=coordinates), st.integers(0, 99))
def test_there_and_back(points: np.ndarray, z: int) -> None:
    positions = to_positions(points, z)
    np.testing.assert_allclose(to_points(positions), points, atol=1e-3)
    assert (positions[:, 0] == z).all()


@given(arrays(float, (3, 3), elements=coordinates), arrays(float, 3, elements=coordinates))
def test_an_affine_transform_is_known_from_four_positions(matrix: np.ndarray, offset: np.ndarray) -> None:
    found = affine_of(lambda position: matrix @ position + offset, 3)
    np.testing.assert_allclose(found[0], matrix, atol=1e-3)
    assert np.array_equal(found[1], offset)


def test_positions_of_one_layer_in_another() -> None:
    """The first counts in 4 nm from the origin, the second in 8 nm from 16 nm on."""
    moved = move_positions(np.array([[10, 20.0]]), lambda p: 4 * np.array(p), lambda p: (np.array(p) - 16) / 8, 2)
    assert moved.tolist() == [[3.0, 8.0]]
    assert move_positions(np.zeros((0, 2)), np.array, np.array, 2).shape == (0, 2)


def test_a_layer_is_read_slice_by_slice() -> None:
    class Lazy:
        shape, ndim, dtype = (3, 8, 9), 3, np.dtype(np.uint16)
        read: list = []  # noqa: RUF012

        def __getitem__(self, key: tuple) -> np.ndarray:
            self.read.append(key[0])
            return np.full(self.shape, 7, np.uint16)[key]

    volume = LayerVolume(Lazy(), "lazy")
    assert volume.shape == (3, 8, 9)
    assert volume.read(2).shape == (8, 9)
    assert Lazy.read == [2]
    assert LayerVolume(np.zeros((8, 9)), "flat").shape == (1, 8, 9)
    assert LayerVolume(np.zeros((8, 9)), "flat").read(0).shape == (8, 9)


def test_the_intensity_range_is_that_of_the_volume() -> None:
    """As training estimates it, and not that of the slice in view: a dark slice stays dark."""
    array = np.stack([np.full((100, 100), z * 1000, np.uint16) for z in range(4)])
    assert LayerVolume(array, "sixteen bits").intensity_range == (0, 3000)
    assert LayerVolume(array.astype(np.uint8), "eight bits").intensity_range is None


@pytest.mark.parametrize(("shape", "says"), [((40, 40, 3), "colors"), ((2, 3, 40, 40), "4 dimensions"), ((9,), "1 d")])
def test_what_is_no_stack_of_gray_slices_is_refused(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=f"'odd'.*{says}"):
        LayerVolume(np.zeros(shape, np.uint8), "odd")


def test_a_layer_whose_file_is_gone() -> None:
    class Gone:
        shape, ndim, dtype = (3, 8, 9), 3, np.dtype(np.uint8)

        def __getitem__(self, key: object) -> np.ndarray:
            raise OSError("the file is gone")

    with pytest.raises(VolumeError, match=r"gone, slice 1 .*the file is gone"):
        LayerVolume(Gone(), "gone").read(1)


def test_empty_labels_take_no_room() -> None:
    """A terabyte of them."""
    labels = empty_labels((1000, 16384, 16384))
    labels[500, 3, 4] = 7
    assert labels[500, 3].sum() == 7
    assert labels[0, 0, 0] == 0
