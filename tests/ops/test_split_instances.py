"""Touching instances are split between their seeds, and nothing else is."""

from __future__ import annotations

from prompt_das.ops.connected_components import connected_components, in_raster_order
from prompt_das.ops.points import render_density
from prompt_das.ops.split_instances import SEPARATION, join_weakest, split_at_centers

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

SIZE = (60, 80)
LEFT, RIGHT = (25.5, 30.5), (52.5, 30.5)  # centers (x, y) of two discs that touch, of radius 18 and 12
NO_CENTERS = np.zeros(SIZE, np.float32)


def discs(*discs: tuple[tuple[float, float], float], size: tuple[int, int] = SIZE) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.any([(x - cx) ** 2 + (y - cy) ** 2 <= r**2 for (cx, cy), r in discs], axis=0)


def density_of(*peaks: tuple[float, float, float], sigma: float = 5.0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Gaussians of (x, y, height)."""
    density = np.zeros(size, np.float32)
    for x, y, height in peaks:
        point, valid = torch.tensor([[[x, y]]]), torch.ones(1, 1, dtype=torch.bool)
        density = np.maximum(density, height * render_density(point, valid, size, sigma)[0].numpy())
    return density


def rod(length: int = 100) -> np.ndarray:
    mask = np.zeros((40, length + 20), bool)
    mask[14:26, 10:-10] = True
    return mask


TWO = discs((LEFT, 18), (RIGHT, 12))


def split(mask: np.ndarray, density: np.ndarray, clicks: list[list[float]] | None = None) -> np.ndarray:
    labels, _ = split_at_centers(mask * 0.95, density, None if clicks is None else np.array(clicks, np.float32))
    return labels


def is_split_at_the_neck(labels: np.ndarray) -> bool:
    """Whether each disc, without a margin of two pixels at the other one, is one instance, and they are two."""
    row = labels[30]
    neck = 41  # the circles meet at x = 42
    left, right = set(row[8 : neck - 2].tolist()), set(row[neck + 3 : 63].tolist())
    areas = sorted(np.bincount(labels.ravel())[1:].tolist())
    return len(left) == len(right) == 1 and left != right and len(areas) == 2 and abs(areas[0] - 440) < 60


def test_touching_discs_are_split_at_their_neck() -> None:
    labels, component = split_at_centers(TWO * 0.95, density_of((*LEFT, 1), (*RIGHT, 0.8)))
    assert is_split_at_the_neck(labels)
    assert component.tolist() == [0, 1, 1]
    assert np.array_equal(labels > 0, TWO)


def test_without_centers_they_are_one() -> None:
    assert split(TWO, NO_CENTERS).max() == 1
    assert split(TWO, density_of((*LEFT, 1))).max() == 1


def test_a_peak_beside_the_mask_is_no_seed() -> None:
    assert split(TWO, density_of((*LEFT, 1), (70.5, 50.5, 1))).max() == 1


def test_a_line_where_the_network_is_less_sure_is_a_border_although_nothing_narrows() -> None:
    probability = rod() * 0.95
    probability[:, 40:43] *= 0.6  # 0.57: still foreground
    labels, _ = split_at_centers(probability, density_of((25.5, 20.5, 0.8), (70.5, 20.5, 0.8), size=rod().shape))
    assert np.unique(labels[20, 10:40]).tolist() == [1]
    assert np.unique(labels[20, 43:110]).tolist() == [2]


# ---- what is not split


def test_a_long_one_with_two_weak_peaks_is_not_split() -> None:
    density = density_of((30.5, 20.5, 0.6), (90.5, 20.5, 0.55), size=rod().shape)
    assert split(rod(), density).max() == 1


def test_a_long_one_with_two_sure_peaks_is_split_between_them() -> None:
    labels = split(rod(), density_of((30.5, 20.5, 1), (90.5, 20.5, 0.9), size=rod().shape))
    assert np.unique(labels[20, 10:58]).tolist() == [1]
    assert np.unique(labels[20, 63:110]).tolist() == [2]


def test_peaks_too_near_to_each_other_do_not_split() -> None:
    """At two sigma the density falls to 0.61 only."""
    assert split(rod(), density_of((50.5, 20.5, 1), (60.5, 20.5, 1), size=rod().shape)).max() == 1


def test_nor_does_a_third_peak_on_the_slope_between_two_seeds() -> None:
    labels = split(TWO, density_of((*LEFT, 1), (*RIGHT, 1), (33.5, 30.5, 0.7)))
    assert is_split_at_the_neck(labels)


# ---- clicks


@pytest.mark.parametrize("click", [LEFT, (30.5, 45.5), (12.5, 22.5), (26.5, 14.5)])
def test_a_click_does_not_split_its_own_object(click: tuple[float, float]) -> None:
    assert split(TWO, density_of((*LEFT, 1)), [[*click]]).max() == 1


@pytest.mark.parametrize("right", [RIGHT, (61.5, 25.5), (50.5, 39.5)])
@pytest.mark.parametrize("left", [LEFT, (12.5, 20.5)])
def test_two_clicks_are_two_instances_wherever_in_them_they_lie(
    left: tuple[float, float], right: tuple[float, float]
) -> None:
    assert is_split_at_the_neck(split(TWO, NO_CENTERS, [[*left], [*right]]))


@pytest.mark.parametrize("click", [RIGHT, (61.5, 25.5), (50.5, 39.5)])
def test_a_click_takes_the_place_of_the_peak_of_its_object(click: tuple[float, float]) -> None:
    labels = split(TWO, density_of((*LEFT, 1), (*RIGHT, 0.9)), [[*click]])
    assert is_split_at_the_neck(labels)


def test_negative_clicks_and_clicks_on_the_background_are_no_seeds() -> None:
    assert split(TWO, NO_CENTERS, [[*LEFT, 1], [*RIGHT, 0], [75, 5, 1]]).max() == 1


def test_equal_clicks_are_one() -> None:
    assert split(TWO, NO_CENTERS, [[*LEFT], [LEFT[0] + 0.2, LEFT[1]]]).max() == 1


# ---- rules


def test_the_weakest_joins_the_one_from_which_least_separates_it() -> None:
    """Points 0, 1 and 2 are in the order of their strength: 0 is near to both, and 1 and 2 stay two."""
    near, nearer, far = SEPARATION / 2, SEPARATION / 4, SEPARATION
    separation = np.array([[0, near, nearer], [near, 0, far], [nearer, far, 0]])
    strength = np.array([0.1, 0.5, 0.9])
    assert join_weakest(separation, strength, np.zeros(3, bool)).tolist() == [2, 1, 2]
    clicked = np.array([True, False, True])
    assert join_weakest(separation, strength, clicked).tolist() == [1, 1, 2]


def test_maps_must_have_one_shape() -> None:
    with pytest.raises(ValueError, match=r"probability is \(60, 80\), density \(60, 81\)"):
        split_at_centers(TWO * 0.9, np.zeros((60, 81), np.float32))


# ---- any maps


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability, density and clicks of a slice, blobs that often touch."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    number = draw(st.integers(0, 8))
    places = rng.uniform(0, size[::-1], (number, 2))
    mask = discs(*((tuple(place), rng.uniform(1, 12)) for place in places), size=size) if number else np.zeros(size)
    probability = mask * rng.uniform(0.4, 1, size) if draw(st.booleans()) else mask * 0.9
    density = density_of(*((*place, rng.uniform(0.3, 1)) for place in places), sigma=3, size=size)
    clicks = rng.uniform(0, size[::-1], (draw(st.integers(0, 3)), 2))
    return probability, density, clicks.astype(np.float32)


@given(scenes())
def test_every_instance_is_a_connected_part_of_one_component(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    probability, density, clicks = scene
    labels, component = split_at_centers(probability, density, clicks)
    components = connected_components(probability > 0.5)
    assert np.array_equal(component[labels], components)
    for one in range(1, len(component)):
        assert connected_components(labels == one).max() == 1
    assert np.array_equal(in_raster_order(labels, len(component) - 1), np.arange(len(component)))


@given(scenes())
def test_without_seeds_instances_are_components(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    probability, density, _ = scene
    labels, component = split_at_centers(probability, np.zeros_like(density))
    assert np.array_equal(labels, connected_components(probability > 0.5))
    assert np.array_equal(component, np.arange(len(component)))


def test_what_is_not_known_is_background_and_holds_no_peak() -> None:
    probability, density = TWO * 0.95, density_of((*LEFT, 1), (*RIGHT, 1))
    probability[:, 50:], density[:, 50:] = np.nan, np.nan
    labels, _ = split_at_centers(probability, density)
    assert labels.max() == 1
    assert not labels[:, 50:].any()
