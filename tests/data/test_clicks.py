"""Simulated clicks change the target, and the target says what was clicked."""

from __future__ import annotations

from dataclasses import replace

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.clicks import ClickSimulator, propose_regions
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import NEGATIVE, POSITIVE, random_pixels

import cv2
import numpy as np
import pytest

PLAIN = ClickSimulator(
    sigma=2.4, free=0.0, added=0.0, max_added=5, removed=0.0, background=0.0, max_background=3, anywhere=0.0
)
CENTERS = [(20, 20), (60, 20), (20, 60), (90, 90)]


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    mask = np.zeros((128, 128), np.uint8)
    for center in CENTERS:
        cv2.circle(mask, center, 7, 1, -1)
    return mask


@pytest.fixture(scope="module")
def image(mask: np.ndarray) -> np.ndarray:
    """Gray tissue with blobs of all sizes, darker where the mask is."""
    noise = np.random.default_rng(0).normal(size=mask.shape)
    blobs = cv2.GaussianBlur(noise, (0, 0), 3)
    return (128 + 300 * blobs - 60 * mask).clip(0, 255).astype(np.float32)


def at(array: np.ndarray, points: np.ndarray) -> list[int]:
    return [int(array[int(y), int(x)]) for x, y, *_ in points]


def crops(simulator: ClickSimulator, image: np.ndarray, mask: np.ndarray, number: int = 60) -> list:
    return [simulator(image, connected_components(mask), np.random.default_rng(seed)) for seed in range(number)]


def test_a_crop_without_clicks_has_the_plain_target(image: np.ndarray, mask: np.ndarray) -> None:
    settings = replace(PLAIN, free=1.0, added=1.0, removed=1.0, background=1.0)
    for target, centers, clicks in crops(settings, image, mask, 5):
        assert np.array_equal(target, mask)
        assert len(centers) == 4
        assert clicks.shape == (0, 3)


def test_the_share_of_crops_without_clicks(image: np.ndarray, mask: np.ndarray) -> None:
    settings = replace(PLAIN, free=0.3, removed=1.0)
    free = sum(len(clicks) == 0 for _, _, clicks in crops(settings, image, mask, 300))
    assert free == pytest.approx(90, abs=25)  # three standard deviations


def test_without_changes_the_clicks_are_a_subset_of_the_centers(image: np.ndarray, mask: np.ndarray) -> None:
    numbers = set()
    for target, centers, clicks in crops(PLAIN, image, mask):
        assert np.array_equal(target, mask)
        assert {tuple(c[:2]) for c in clicks} <= {tuple(c) for c in centers}
        assert (clicks[:, 2] == POSITIVE).all()
        numbers.add(len(clicks))
    assert numbers == {0, 1, 2, 3, 4}


def test_a_negative_click_takes_its_instance_out_of_the_target(image: np.ndarray, mask: np.ndarray) -> None:
    removed = set()
    for target, centers, clicks in crops(replace(PLAIN, removed=1.0), image, mask):
        negative = clicks[clicks[:, 2] == NEGATIVE]
        assert at(mask, negative) == [1] * len(negative)
        assert at(target, negative) == [0] * len(negative)
        assert at(target, clicks[clicks[:, 2] == POSITIVE]) == [1] * (len(clicks) - len(negative))
        assert connected_components(target).max() == len(centers) == 4 - len(negative)
        removed.add(len(negative))
    assert removed == {1, 2, 3, 4}


def test_a_clicked_region_joins_the_target_and_no_other_pixel_does(image: np.ndarray, mask: np.ndarray) -> None:
    found = 0
    for target, centers, clicks in crops(replace(PLAIN, added=1.0), image, mask):
        added = target.astype(bool) & ~mask.astype(bool)
        regions = connected_components(added)
        outside = clicks[np.array(at(mask, clicks), bool) == 0] if len(clicks) else clicks
        # Each region is clicked once; neighboring regions can be one component.
        assert set(at(regions, outside)) == set(range(1, regions.max() + 1))
        assert len(outside) <= 5
        assert at(target, centers) == [1] * len(centers)
        found += len(outside)
    assert found > 60  # more than one in the mean


def test_regions_have_the_asked_sizes_and_do_not_touch_the_mask(image: np.ndarray, mask: np.ndarray) -> None:
    near = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0
    for seed in range(20):
        regions, points = PLAIN.choose_regions(image, mask, np.random.default_rng(seed))
        areas = np.bincount(regions.ravel())[1:]
        assert len(areas) == len(points)
        assert ((areas >= 0.5 * 7 * 2.4**2) & (areas <= 87 * 2.4**2)).all()
        assert not (near & (regions > 0)).any()
        assert all(connected_components(regions == i).max() == 1 for i in range(1, len(points) + 1))
        assert at(regions, points) == list(range(1, len(points) + 1))


def test_clicks_on_background_change_nothing(image: np.ndarray, mask: np.ndarray) -> None:
    for target, _, clicks in crops(replace(PLAIN, background=1.0), image, mask):
        negative = clicks[clicks[:, 2] == NEGATIVE]
        assert np.array_equal(target, mask)
        assert 1 <= len(negative) <= 3
        assert at(mask, negative) == [0] * len(negative)


def test_clicks_anywhere_lie_inside_but_seldom_at_the_center(image: np.ndarray, mask: np.ndarray) -> None:
    clicks = np.concatenate([c for _, _, c in crops(replace(PLAIN, anywhere=1.0), image, mask)])
    assert at(mask, clicks) == [1] * len(clicks)
    at_center = sum((x - 0.5, y - 0.5) in CENTERS for x, y, _ in clicks)
    assert at_center < 0.1 * len(clicks)


def test_the_same_generator_clicks_alike(image: np.ndarray, mask: np.ndarray) -> None:
    settings = replace(PLAIN, free=0.3, added=0.6, removed=0.3, background=0.3, anywhere=0.3)
    for one, other in zip(crops(settings, image, mask, 10), crops(settings, image, mask, 10), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_empty_flat_crop_has_nothing_to_click() -> None:
    settings = replace(PLAIN, added=1.0, removed=1.0)
    target, centers, clicks = settings(np.full((64, 64), 9.0), np.zeros((64, 64), np.uint8), np.random.default_rng(0))
    assert target.sum() == len(centers) == len(clicks) == 0


def test_regions_cover_the_image_and_end_at_edges() -> None:
    image = np.zeros((60, 60), np.float32)
    image[20:40, 20:40] = 200
    regions = propose_regions(image, 2.4, np.random.default_rng(0))
    assert regions.min() > 0
    inner = set(regions[24:36, 24:36].ravel())
    assert not inner & set(regions[:14].ravel())


def test_random_pixels_are_no_more_than_there_are() -> None:
    where = np.zeros((4, 6), bool)
    where[2, 5] = True
    assert random_pixels(where, 3, np.random.default_rng(0)).tolist() == [[5.5, 2.5]]


def test_settings_come_from_the_config() -> None:
    assert ClickSimulator.from_config(get_prompt_das_cfg(None)) is None
    cfg = get_prompt_das_cfg(None, ["INPUT.CLICKS.ENABLED", "True", "INPUT.CLICKS.MAX_ADDED", "7"])
    simulator = ClickSimulator.from_config(cfg)
    assert simulator is not None
    assert (simulator.sigma, simulator.max_added, simulator.free) == (9.5, 7, cfg.INPUT.CLICKS.FREE_PROBABILITY)


def test_objects_that_are_known_are_clicked_and_become_foreground(image: np.ndarray, mask: np.ndarray) -> None:
    objects = np.zeros(mask.shape, np.int32)
    objects[100:120, 20:40], objects[20:40, 100:120] = 3, 7
    instances = connected_components(mask)
    settings = replace(PLAIN, added=1.0, anywhere=0.5)
    seen = set()
    for seed in range(40):
        target, _, clicks = settings(image, instances, np.random.default_rng(seed), objects)
        assert at(target, clicks) == [1] * len(clicks)
        hit = {i for i in at(objects, clicks) if i}
        seen |= hit
        assert all(a or b for a, b in zip(at(objects, clicks), at(instances, clicks), strict=True))  # on nothing else
        for i in hit:
            assert target[objects == i].all()
    assert seen == {3, 7}


def test_instances_that_touch_keep_a_center_each(image: np.ndarray) -> None:
    instances = np.zeros(image.shape, np.int32)
    instances[40:60, 40:60], instances[40:60, 60:80] = 1, 2
    _, centers, _ = replace(PLAIN, free=1.0)(image, instances, np.random.default_rng(0))
    assert len(centers) == 2
