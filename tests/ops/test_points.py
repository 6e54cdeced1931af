"""Points: centers, sparse sampling, density maps, peaks."""

from __future__ import annotations

import math

from prompt_das.ops import points as points_module
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import (
    find_peaks,
    instance_centers,
    outside_image,
    pad_points,
    render_density,
    require_inside,
    sample_sparse_points,
    suppress_near,
)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import Tensor

label_maps = arrays(np.int32, st.tuples(st.integers(1, 10), st.integers(1, 10)), elements=st.integers(0, 4))


# ---- centers of instances


def test_the_center_of_the_first_pixel_is_half_half() -> None:
    ids, points = instance_centers(np.array([[7]]))
    assert ids.tolist() == [7]
    assert points.tolist() == [[0.5, 0.5]]
    assert points.dtype == np.float32


def test_centers_are_x_y_and_in_the_order_of_the_ids() -> None:
    labels = np.zeros((5, 9), np.int64)
    labels[1:4, 5:8] = 2
    labels[0, 0:3] = 9
    ids, points = instance_centers(labels)
    assert ids.tolist() == [2, 9]
    assert points.tolist() == [[6.5, 2.5], [1.5, 0.5]]


def test_the_center_of_a_crescent_is_its_own_nearest_pixel() -> None:
    labels = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    _, points = instance_centers(labels)  # the centroid is column 1.09, row 2, rounded to background
    assert points.tolist() == [[0.5, 2.5]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_label_dtype_and_large_sparse_ids(dtype: type) -> None:
    top = min(np.iinfo(dtype).max, 2**40)
    ids, points = instance_centers(np.array([[0, top], [3, 3]], dtype=dtype))
    assert ids.tolist() == [3, top]
    assert ids.dtype == dtype
    assert points.tolist() == [[0.5, 1.5], [1.5, 0.5]]  # mean column 0.5 rounds to the even 0


@given(label_maps)
def test_centers_match_the_definition(labels: np.ndarray) -> None:
    ids, points = instance_centers(labels)
    assert ids.tolist() == [i for i in np.unique(labels) if i > 0]
    for instance, (x, y) in zip(ids, points, strict=True):
        rows, cols = np.nonzero(labels == instance)
        row, col = round(rows.mean()), round(cols.mean())
        if labels[row, col] != instance:
            nearest = np.argmin((rows - row) ** 2 + (cols - col) ** 2)
            row, col = rows[nearest], cols[nearest]
        assert (x, y) == (col + 0.5, row + 0.5)
        assert labels[int(y), int(x)] == instance


def test_background_only_has_no_centers() -> None:
    ids, points = instance_centers(np.zeros((4, 4), np.uint16))
    assert ids.shape == (0,)
    assert points.shape == (0, 2)


@pytest.mark.parametrize("labels", [np.zeros((2, 2, 2), int), np.zeros((2, 2), np.float32)])
def test_centers_need_one_integer_slice(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="integer array of shape"):
        instance_centers(labels)


# ---- sparse sampling


@pytest.mark.parametrize(
    ("n", "ratio", "expected"),
    [(20, 0.15, 3), (21, 0.15, 4), (1, 0.15, 1), (0, 0.15, 0), (9, 0, 0), (9, 1, 9), (100, 0.07, 7)],
)
def test_sample_sizes_round_up(n: int, ratio: float, expected: int) -> None:
    points = np.arange(2 * n).reshape(n, 2)
    assert sample_sparse_points(points, ratio, np.random.default_rng(0)).shape == (expected, 2)


@given(st.integers(0, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_samples_are_distinct_ordered_seeded_and_nested(n: int, a: float, b: float, seed: int) -> None:
    points = np.arange(2 * n).reshape(n, 2)
    few, many = (sample_sparse_points(points, r, np.random.default_rng(seed))[:, 0].tolist() for r in sorted((a, b)))
    assert set(few) <= set(many)
    assert few == sorted(set(few))
    assert many == sorted(set(many))


def test_every_point_is_equally_likely() -> None:
    rng = np.random.default_rng(0)
    drawn = np.concatenate(
        [sample_sparse_points(np.arange(20).reshape(10, 2), 0.3, rng)[:, 0] // 2 for _ in range(500)]
    )
    assert np.bincount(drawn, minlength=10) == pytest.approx(150, abs=40)  # 4 standard deviations


@pytest.mark.parametrize("ratio", [-0.1, 15, math.nan])
def test_a_ratio_in_percent_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"15 % is 0\.15"):
        sample_sparse_points(np.zeros((3, 2)), ratio, np.random.default_rng(0))


# ---- padding


def test_pad_points() -> None:
    points, valid = pad_points([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(0, 2), torch.tensor([[5.0, 6.0]])])
    assert points.tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[5, 6], [0, 0]]]
    assert valid.tolist() == [[True, True], [False, False], [True, False]]


def test_pad_points_of_nothing() -> None:
    points, valid = pad_points([torch.zeros(0, 2)] * 3)
    assert points.shape == (3, 0, 2)
    assert valid.shape == (3, 0)
    assert valid.dtype == torch.bool
    points, valid = pad_points([])
    assert points.shape == (0, 0, 2)
    assert valid.shape == (0, 0)


# ---- density maps


def one_image(*points: tuple[float, float]) -> tuple[Tensor, Tensor]:
    return pad_points([torch.tensor(points).reshape(-1, 2)])


def test_density_is_a_gaussian_of_peak_one_at_the_pixel_of_the_point() -> None:
    density = render_density(*one_image((10.5, 4.5)), size=(9, 31), sigma=9.5)[0]
    assert density[4, 10] == 1
    assert density[4, 20] == pytest.approx(math.exp(-(10**2) / (2 * 9.5**2)))
    assert density[7, 6] == pytest.approx(math.exp(-(3**2 + 4**2) / (2 * 9.5**2)))


def test_close_points_keep_their_peaks() -> None:
    density = render_density(*one_image((8.5, 8.5), (12.5, 8.5)), size=(17, 21))[0]
    assert density[8, 8] == density[8, 12] == density.max() == 1
    assert density[8, 10] == pytest.approx(math.exp(-(2**2) / (2 * 9.5**2)))


point_lists = st.lists(st.tuples(st.floats(-5, 30), st.floats(-5, 30)), max_size=6)


@given(st.lists(point_lists, min_size=1, max_size=3), st.floats(0.5, 12), st.randoms(use_true_random=False))
def test_density_is_the_maximum_over_valid_points(images: list, sigma: float, random) -> None:  # type: ignore[no-untyped-def]
    points, valid = pad_points([torch.tensor(p).reshape(-1, 2) for p in images])
    points = torch.where(valid[..., None], points, 7.0)  # what padding holds must not matter
    density = render_density(points, valid, (13, 17), sigma)
    y, x = np.mgrid[:13, :17] + 0.5
    for image, result in zip(images, density, strict=True):
        each = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in image]
        np.testing.assert_allclose(result, np.max([np.zeros_like(x), *each], axis=0), atol=2e-5)
    order = random.sample(range(points.shape[1]), points.shape[1])
    assert torch.equal(density, render_density(points[:, order], valid[:, order], (13, 17), sigma))


def test_no_points_give_zeros() -> None:
    assert torch.equal(
        render_density(torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.bool), (3, 4)), torch.zeros(2, 3, 4)
    )
    assert not render_density(torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool), (3, 4)).any()


def test_chunks_of_points_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, valid = torch.rand(2, 7, 2, generator=torch.manual_seed(0)) * 20, torch.ones(2, 7, dtype=torch.bool)
    whole = render_density(points, valid, (20, 20))
    for elements in (1, 2 * 2 * 400, 3 * 2 * 400):
        monkeypatch.setattr(points_module, "_CHUNK_ELEMENTS", elements)
        assert torch.equal(render_density(points, valid, (20, 20)), whole)


# ---- peaks


def reference_peaks(density: np.ndarray, threshold: float, kernel: int, top_k: int) -> list[tuple[float, float]]:
    """The definition, pixel by pixel: maxima of their window, grouped while they lie in each other's windows."""
    maxima = (density >= threshold) & (
        density == ndimage.maximum_filter(density, kernel, mode="constant", cval=-np.inf)
    )
    left = [tuple(p) for p in np.argwhere(maxima).tolist()]
    found = []
    while left:
        plateau = [left.pop(0)]
        for row, col in plateau:
            near = [p for p in left if max(abs(p[0] - row), abs(p[1] - col)) <= kernel // 2]
            plateau += near
            left = [p for p in left if p not in near]
        row, col = min(plateau)
        found.append((-density[row, col], row, col))
    return [(col + 0.5, row + 0.5) for _, row, col in sorted(found)[:top_k]]


# few different values make ties and plateaus likely
densities = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([-1, -0.5, -0.25, -0.0, 0, 0.25, 0.5, 0.5, 1]).map(np.float32),
)


@settings(max_examples=200)
@given(densities, st.sampled_from([-0.75, 0.0, 0.49, 0.5]), st.sampled_from([1, 3, 5]), st.integers(1, 12))
def test_peaks_match_the_definition(density: np.ndarray, threshold: float, kernel: int, top_k: int) -> None:
    points, valid, scores = find_peaks(torch.from_numpy(density), threshold, kernel, top_k)
    assert points.shape == (len(density), top_k, 2)
    assert valid.shape == scores.shape == (len(density), top_k)
    assert not points[~valid].any()
    assert not scores[~valid].any()
    for image, p, v, s in zip(density, points, valid, scores, strict=True):
        expected = reference_peaks(image, threshold, kernel, top_k)
        assert p[v].tolist() == [list(e) for e in expected]
        assert v.tolist() == [True] * len(expected) + [False] * (top_k - len(expected))
        assert s[v].tolist() == [image[int(y), int(x)] for x, y in expected]


def test_a_winding_plateau_counts_once_and_is_found_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case of label propagation: a serpentine of 1700 pixels that window neighbors cannot shortcut."""
    density = torch.zeros(1, 97, 101)
    density[0, ::6] = 1
    for i, row in enumerate(range(0, 96, 6)):
        density[0, row : row + 7, -1 if i % 2 == 0 else 0] = 1
    rounds = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda *args: rounds.append(0) or equal(*args))
    points, valid, _ = find_peaks(density)
    assert points[valid].tolist() == [[0.5, 0.5]]
    assert 1 < len(rounds) < 10


def test_a_constant_image_is_one_plateau() -> None:
    points, valid, _ = find_peaks(torch.ones(2, 33, 65))
    assert valid.sum(1).tolist() == [1, 1]
    assert points[:, 0].tolist() == [[0.5, 0.5]] * 2


def test_a_batch_equals_its_images_one_by_one() -> None:
    density = torch.rand(3, 20, 30, generator=torch.manual_seed(0)).mul(8).round().div(8)
    for i, together in enumerate(zip(*find_peaks(density), strict=True)):
        for a, b in zip(together, find_peaks(density[i : i + 1]), strict=True):
            assert torch.equal(a, b[0])


def test_nan_and_low_densities_have_no_peaks() -> None:
    density = torch.stack([torch.full((6, 6), math.nan), torch.full((6, 6), 0.48)])
    assert not find_peaks(density)[1].any()


def test_half_precision_plateaus_count_once() -> None:
    """bfloat16 cannot tell the top of a Gaussian from its neighbors."""
    density = render_density(*one_image((20.5, 20.5), (50.5, 30.5)), size=(50, 70)).bfloat16()
    points, valid, _ = find_peaks(density)
    assert valid.sum() == 2
    assert (points[valid] - torch.tensor([[20.5, 20.5], [50.5, 30.5]])).abs().max() <= 2


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        find_peaks(torch.zeros(1, 5, 5), kernel=4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8, unique=True))
def test_peaks_invert_the_rendering_of_separate_points(cells: list[tuple[int, int]]) -> None:
    """From instances to centers to density and back."""
    expected = sorted([[11 * x + 4.5, 11 * y + 4.5] for x, y in cells], key=lambda p: (p[1], p[0]))
    labels = np.zeros((44, 44), np.int32)
    for x, y in cells:
        labels[11 * y + 1 : 11 * y + 8, 11 * x + 1 : 11 * x + 8] = 1
    _, centers = instance_centers(connected_components(labels))
    points, valid = pad_points([torch.from_numpy(centers)])
    peaks, found, scores = find_peaks(render_density(points, valid, (44, 44), sigma=4))
    assert peaks[found].tolist() == expected
    assert (scores[found] == 1).all()


# ---- suppression


def test_points_near_a_valid_anchor_are_dropped() -> None:
    points, valid = one_image((0, 0), (3, 4), (6, 8), (20, 20))
    anchors, anchors_valid = one_image((0, 0), (20, 20))
    anchors_valid[0, 1] = False
    near = suppress_near(points, valid, anchors, anchors_valid, radius=5)
    assert near.tolist() == [[False, True, True, True]]  # (3, 4) is at distance 5 exactly
    assert suppress_near(points, valid, anchors, anchors_valid, radius=5.01).tolist() == [[False, False, True, True]]


def test_suppression_is_per_image_and_needs_no_anchor() -> None:
    points, valid = pad_points([torch.zeros(1, 2), torch.zeros(1, 2)])
    anchors, anchors_valid = pad_points([torch.zeros(1, 2), torch.zeros(0, 2)])
    assert suppress_near(points, valid, anchors, anchors_valid, 9.5).tolist() == [[False], [True]]
    assert torch.equal(
        suppress_near(points, valid, torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.bool), 9.5), valid
    )


def test_suppression_never_revives_a_point() -> None:
    points, valid = one_image((0, 0), (9, 9))
    anchors, anchors_valid = one_image((9, 9))
    assert suppress_near(points, ~valid, anchors, anchors_valid, 1).tolist() == [[False, False]]


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    points = torch.rand(2, 20, 2, generator=torch.manual_seed(0)) * 100
    valid = torch.ones(2, 20, dtype=torch.bool)
    density = render_density(points, valid, (100, 100))
    torch.testing.assert_close(render_density(points.cuda(), valid.cuda(), (100, 100)).cpu(), density)
    for a, b in zip(find_peaks(density), find_peaks(density.cuda()), strict=True):
        assert torch.equal(a, b.cpu())


def test_points_outside_an_image_are_named() -> None:
    """An image of 3 rows and 5 columns: its right and lower border are outside, and so is NaN."""
    points = np.array([[0.0, 0.0], [4.9, 2.9], [5.0, 1.0], [1.0, 3.0], [-0.1, 1.0], [np.nan, 1.0]])
    assert outside_image(points, (3, 5)).tolist() == [False, False, True, True, True, True]
    require_inside(points[:2], (3, 5))
    with pytest.raises(ValueError, match=r"^a.csv: point 2 \(x=5, y=1\) lies outside the image of 5 x 3 px .* 4 of 6"):
        require_inside(points, (3, 5), "a.csv: ")
