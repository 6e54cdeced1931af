"""Where contrastive tokens are asked for."""

from __future__ import annotations

from typing import Any

from prompt_das.adaptation.contrastive_sampling import sample_contrastive_points
from prompt_das.ops.batching import valid_points
from prompt_das.ops.connected_components import connected_components

import numpy as np
import pytest
import torch

SETTINGS = {
    "queries_per_instance": 3,
    "max_queries": 20,
    "num_negatives": 30,
    "foreground": 0.9,
    "background": 0.1,
}


def sample(probability: np.ndarray, seed: int = 0, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Queries and negatives of one image, without padding."""
    noise = np.random.default_rng(seed).integers(2**31, size=probability.shape)
    image, noise = torch.from_numpy(probability)[None], torch.from_numpy(noise)[None]
    points = {name: value[0] for name, value in sample_contrastive_points(image, noise, **(SETTINGS | changes)).items()}
    return valid_points(points, "queries"), valid_points(points, "negatives")


def as_set(points: np.ndarray) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for x, y in points}


def pixels_under(points: np.ndarray, image: np.ndarray) -> np.ndarray:
    columns, rows = np.floor(points).astype(int).T
    return image[rows, columns]


def test_so_many_queries_of_each_instance() -> None:
    """Instances of 20, 9 and 2 confident pixels, one of them inside an unsure rim, and one that is all unsure."""
    probability = np.zeros((20, 30), np.float32)
    probability[1:5, 1:6] = 0.99
    probability[8:13, 8:13], probability[9:12, 9:12] = 0.6, 0.99
    probability[15, 20:22] = 0.95
    probability[18, 5:15] = 0.8
    queries, negatives = sample(probability)
    owners = pixels_under(queries, connected_components(probability > 0.5))
    assert sorted(np.bincount(owners, minlength=5).tolist()) == [0, 0, 2, 3, 3]
    assert (pixels_under(queries, probability) > 0.9).all()
    assert (pixels_under(negatives, probability) < 0.1).all()
    assert len(as_set(queries)) == len(queries) == 8
    assert len(as_set(negatives)) == len(negatives) == 30


def test_every_confident_pixel_of_an_instance_is_equally_likely() -> None:
    probability = np.zeros((4, 6), np.float32)
    probability[1:3, 1:5] = 0.99
    drawn = np.concatenate(
        [pixels_under(sample(probability, seed)[0], np.arange(24).reshape(4, 6)) for seed in range(800)]
    )
    expected = 800 * 3 / 8
    counts = np.bincount(drawn, minlength=24).reshape(4, 6)
    assert counts[1:3, 1:5] == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert counts.sum() == 2400


def test_of_more_instances_than_there_are_queries_large_ones_are_not_preferred() -> None:
    probability = np.zeros((40, 60), np.float32)
    probability[::4, 40::4] = 0.99  # 50 instances of a pixel
    probability[:, :30] = 0.99  # and a large one
    large = 0
    for seed in range(300):
        queries, negatives = sample(probability, seed, queries_per_instance=1, max_queries=17, num_negatives=11)
        assert (len(queries), len(negatives)) == (17, 11)
        large += (queries[:, 0] < 30).sum()
    assert large / 300 == pytest.approx(17 / 51, abs=4 * np.sqrt(1 / 3 * 2 / 3 / 300))


@pytest.mark.parametrize(("value", "queries", "negatives"), [(0.5, 0, 0), (0.0, 0, 30), (1.0, 3, 0)])
def test_an_image_of_one_kind_only(value: float, queries: int, negatives: int) -> None:
    points = sample(np.full((24, 32), value, np.float32))
    assert [p.shape for p in points] == [(queries, 2), (negatives, 2)]
    assert all(p.dtype == np.float32 for p in points)


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    rng = np.random.default_rng(0)
    probability, noise = rng.random((3, 24, 32), np.float32), rng.integers(2**31, size=(3, 24, 32))
    together = sample_contrastive_points(torch.from_numpy(probability), torch.from_numpy(noise), **SETTINGS)
    for i in range(3):
        one = slice(i, i + 1)
        alone = sample_contrastive_points(torch.from_numpy(probability[one]), torch.from_numpy(noise[one]), **SETTINGS)
        for name, value in together.items():
            assert torch.equal(value[one], alone[name]), name


def test_fewer_pixels_than_points_are_asked_for() -> None:
    queries, negatives = sample(np.array([[0.95, 0.0]], np.float32), max_queries=256, num_negatives=512)
    assert (queries.tolist(), negatives.tolist()) == ([[0.5, 0.5]], [[1.5, 0.5]])
