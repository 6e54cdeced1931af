"""Synthetic volumes: reproducible, like EM in what matters for the task, and two domains that differ."""

from __future__ import annotations

from prompt_das.ops.connected_components import connected_components
from prompt_das.volumes.synthetic import MIN_AREA, STYLES, make_synthetic_volume

import numpy as np
import pytest

SHAPE = (8, 160, 192)
Volumes = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def volumes() -> Volumes:
    return {style: make_synthetic_volume(SHAPE, style, seed=1) for style in STYLES}


@pytest.fixture(params=STYLES)
def volume(request: pytest.FixtureRequest, volumes: Volumes) -> tuple[np.ndarray, np.ndarray]:
    return volumes[request.param]


def test_types_and_shapes(volume: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = volume
    assert (images.shape, images.dtype) == (SHAPE, np.uint8)
    assert (labels.shape, labels.dtype) == (SHAPE, np.uint16)


def test_the_seed_and_the_style_decide() -> None:
    shape = (2, 64, 64)
    images, labels = make_synthetic_volume(shape, "source", 3)
    again = make_synthetic_volume(shape, "source", 3)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert (images != make_synthetic_volume(shape, "source", 4)[0]).mean() > 0.5
    assert (images != make_synthetic_volume(shape, "target", 3)[0]).mean() > 0.5


def test_foreground_and_instances_as_in_real_slices(volume: tuple[np.ndarray, np.ndarray]) -> None:
    _, labels = volume
    assert 0.04 < (labels > 0).mean() < 0.14
    counts = [len(np.unique(plane)) - 1 for plane in labels]
    per_256 = np.array(counts) * 256**2 / (SHAPE[1] * SHAPE[2])
    assert 10 < per_256.mean() < 25
    assert per_256.min() > 4  # no empty first or last slice


def test_instances_have_the_size_of_mitochondria(volume: tuple[np.ndarray, np.ndarray]) -> None:
    areas = np.concatenate([np.unique(plane, return_counts=True)[1][1:] for plane in volume[1]])
    assert 14 < np.median(np.sqrt(4 * areas / np.pi)) < 34
    assert areas.min() > MIN_AREA // 4  # smaller than MIN_AREA only where the picture's border cuts


def test_ids_are_those_of_bodies_that_run_through_slices(volume: tuple[np.ndarray, np.ndarray]) -> None:
    _, labels = volume
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    overlap = (labels[:-1] == labels[1:]) & (labels[1:] > 0)
    assert overlap.sum() > 0.6 * (labels[1:] > 0).sum()
    for plane in labels:  # instances of a slice do not touch, so that components and ids agree
        assert connected_components(plane > 0).max() <= 1.2 * (len(np.unique(plane)) - 1)


def test_mitochondria_are_darker_than_what_surrounds_them(volume: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = volume
    assert images[labels > 0].mean() < images[labels == 0].mean() - 25
    assert (images == 0).mean() + (images == 255).mean() < 0.02  # exposure


def test_the_target_is_paler_and_its_mitochondria_less_dark(volumes: Volumes) -> None:
    contrast = {}
    for style, (images, labels) in volumes.items():
        contrast[style] = images[labels == 0].mean() - images[labels > 0].mean()
    assert contrast["target"] < 0.75 * contrast["source"]
    assert volumes["target"][0].std() < 0.8 * volumes["source"][0].std()


@pytest.mark.parametrize(("shape", "style"), [((4, 64, 64), "other"), ((4, 63, 64), "source"), ((64, 64), "source")])
def test_errors(shape: tuple[int, ...], style: str) -> None:
    with pytest.raises(ValueError, match=r"style must be one of source, target|shape must be"):
        make_synthetic_volume(shape, style)  # type: ignore[arg-type]
