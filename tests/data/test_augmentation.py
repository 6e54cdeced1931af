"""Image, mask and points stay together under every transform."""

from __future__ import annotations

from collections import Counter

from prompt_das.data.augmentation import BrightnessContrast, Elastic, GaussianNoise, RightAngle, StrongAugmentation

import numpy as np
import pytest
from fvcore.transforms.transform import TransformList
from hypothesis import given
from hypothesis import strategies as st

turns = st.builds(RightAngle, st.integers(0, 3), st.booleans(), st.integers(1, 9), st.integers(1, 9))


def pixel_centers(height: int, width: int) -> np.ndarray:
    """(H·W, 2) points in raster order."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x.ravel(), y.ravel()], axis=1)


def global_random_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (to see that nobody draws from it)
    return state["key"].tobytes(), state["pos"]


# ---- right angles


def test_a_quarter_turn_is_counter_clockwise() -> None:
    turn = RightAngle(1, False, height=2, width=3)
    np.testing.assert_array_equal(turn.apply_image(np.array([[1, 2, 3], [4, 5, 6]])), [[3, 6], [2, 5], [1, 4]])
    assert turn.apply_coords(np.array([[0.5, 0.5]])).tolist() == [[0.5, 2.5]]  # the 1, now bottom left
    assert turn.output_size == (3, 2)


@given(turns)
def test_points_follow_their_pixels_exactly(turn: RightAngle) -> None:
    """For a picture of pixel numbers, the pixel at each moved point is the one that was there before."""
    numbers = np.arange(turn.height * turn.width).reshape(turn.height, turn.width)
    moved = turn.apply_coords(pixel_centers(turn.height, turn.width))
    for picture in (turn.apply_image(numbers), turn.apply_segmentation(numbers)):
        assert picture.shape == turn.output_size
        column, row = moved.astype(int).T
        np.testing.assert_array_equal(picture[row, column], numbers.ravel())


@given(turns, st.floats(-3, 12), st.floats(-3, 12))
def test_inverse_undoes(turn: RightAngle, x: float, y: float) -> None:
    image = np.random.default_rng(0).random((turn.height, turn.width, 3))
    inverse = turn.inverse()
    np.testing.assert_array_equal(inverse.apply_image(turn.apply_image(image)), image)
    assert inverse.apply_coords(turn.apply_coords(np.array([[x, y]]))) == pytest.approx(np.array([[x, y]]))


def test_there_are_eight() -> None:
    image = np.array([[1, 2], [3, 4]])
    pictures = {RightAngle(k, flip, 2, 2).apply_image(image).tobytes() for k in range(4) for flip in (False, True)}
    assert len(pictures) == 8


# ---- elastic


def elastic(seed: int, height: int = 60, width: int = 80, spacing: float = 20.0) -> Elastic:
    control = np.random.default_rng(seed).uniform(
        -spacing / 8, spacing / 8, (2, *Elastic.grid_size(spacing, height, width))
    )
    return Elastic(control, spacing, height, width)


@given(st.integers(0, 2**31))
def test_elastic_moves_points_with_the_mask(seed: int) -> None:
    transform = elastic(seed)
    points = np.array([[20.5, 30.5], [60.5, 12.5], [40.5, 50.5]])
    y, x = np.mgrid[:60, :80] + 0.5
    for i, (px, py) in enumerate(points):
        disk = (x - px) ** 2 + (y - py) ** 2 <= 3.0**2
        mask = transform.apply_segmentation(disk.astype(np.int32))
        rows, cols = np.nonzero(mask)
        moved = transform.apply_coords(points)[i]
        np.testing.assert_allclose([cols.mean() + 0.5, rows.mean() + 0.5], moved, atol=0.8)
        assert mask[int(moved[1]), int(moved[0])] == 1


@given(st.integers(0, 2**31))
def test_elastic_points_solve_their_equation(seed: int) -> None:
    """The output at p is the input at p + u(p): the moved point plus its displacement is the point itself."""
    transform = elastic(seed)
    points = np.random.default_rng(seed).uniform(-5, 85, (50, 2))
    moved = transform.apply_coords(points)
    np.testing.assert_allclose(moved + transform._displacement(moved), points, atol=1e-5)


def test_elastic_image_reads_where_the_displacement_says() -> None:
    transform = elastic(0)
    ramp = np.broadcast_to(np.arange(80, dtype=np.float32) + 0.5, (60, 80)).copy()  # the value is x
    centers = pixel_centers(60, 80)
    expected = centers[:, 0] + transform._displacement(centers)[:, 0]
    np.testing.assert_allclose(transform.apply_image(ramp).ravel(), expected.clip(0.5, 79.5), atol=0.05)
    assert np.abs(expected - centers[:, 0]).max() > 0.5


def test_elastic_keeps_ids_and_dtype_of_a_mask() -> None:
    labels = np.zeros((60, 80), np.uint32)
    labels[10:40, 10:60] = 16_777_217  # not a float32
    moved = elastic(1).apply_segmentation(labels)
    assert moved.dtype == np.uint32
    assert set(np.unique(moved)) == {0, 16_777_217}
    assert not np.array_equal(moved, labels)


def test_zero_displacement_changes_nothing() -> None:
    transform = Elastic(np.zeros((2, *Elastic.grid_size(16, 20, 30))), 16, 20, 30)
    image = np.random.default_rng(0).random((20, 30), np.float32)
    np.testing.assert_array_equal(transform.apply_image(image), image)
    assert transform.apply_coords(np.array([[3.25, 4.5]])).tolist() == [[3.25, 4.5]]


def test_constant_control_points_shift_everything() -> None:
    """A B-spline's weights sum to one everywhere, borders included."""
    transform = Elastic(np.full((2, *Elastic.grid_size(16, 32, 33)), 2.0), 16, 32, 33)
    image = np.random.default_rng(0).random((32, 33), np.float32)
    np.testing.assert_allclose(transform.apply_image(image)[:-2, :-2], image[2:, 2:], atol=1e-6)
    np.testing.assert_allclose(transform.apply_coords(np.array([[0.0, 32.0], [33.0, 0.0]])), [[-2, 30], [31, -2]])


def test_a_control_point_pulls_most_where_it_is() -> None:
    """The first row and column of control points lie one spacing outside the image; a cubic B-spline peaks at 2/3."""
    control = np.zeros((2, *Elastic.grid_size(20, 60, 80)))
    control[:, 2, 3] = 2.0
    transform = Elastic(control, 20, 60, 80)
    at, beside = transform._displacement(np.array([[40.0, 20.0], [60.0, 20.0]]))
    np.testing.assert_allclose(at, 2 * (2 / 3) ** 2)
    np.testing.assert_allclose(beside, 2 * (2 / 3) * (1 / 6))


def test_folding_displacements_are_refused() -> None:
    with pytest.raises(ValueError, match="folds"):
        Elastic(np.full((2, 6, 6), 9.0), 64, 100, 100)


# ---- photometric


@pytest.mark.parametrize("transform", [GaussianNoise(20, 0), BrightnessContrast(1.3, 0.7)])
def test_photometric_transforms_touch_gray_values_only(transform: GaussianNoise | BrightnessContrast) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (40, 50)).astype(np.float32)
    before = image.copy()
    changed = transform.apply_image(image)
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert not np.array_equal(changed, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(transform.apply_image(image), changed)  # a transform is deterministic
    labels, points = np.arange(6).reshape(2, 3), np.ones((4, 2))
    assert transform.apply_segmentation(labels) is labels
    assert transform.apply_coords(points) is points


def test_noise_has_the_standard_deviation_of_its_setting() -> None:
    image = np.full((200, 200), 128, np.float32)
    noise = GaussianNoise(10, 3).apply_image(image) - image
    assert noise.std() == pytest.approx(10, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.3)


def test_brightness_scales_the_mean_and_contrast_the_deviation() -> None:
    image = np.random.default_rng(0).uniform(80, 120, (30, 30)).astype(np.float32)
    changed = BrightnessContrast(brightness=1.2, contrast=0.7).apply_image(image)
    assert changed.mean() == pytest.approx(1.2 * image.mean(), rel=1e-5)
    assert changed.std() == pytest.approx(1.2 * 0.7 * image.std(), rel=1e-4)
    np.testing.assert_allclose(BrightnessContrast(1, 1).apply_image(image), image, atol=1e-4)


# ---- the policy


def test_the_same_generator_state_draws_the_same_transforms() -> None:
    draw = StrongAugmentation(elastic_probability=0.5)
    image = np.random.default_rng(0).uniform(0, 255, (32, 48)).astype(np.float32)
    before = global_random_state()

    def views(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        return [p.apply_image(g.apply_image(image)).tobytes() for g, p in (draw(rng, 32, 48) for _ in range(20))]

    assert views(0) == views(0) != views(1)
    assert global_random_state() == before


def test_transforms_are_as_frequent_as_their_settings() -> None:
    rng, draw = np.random.default_rng(0), StrongAugmentation(elastic_probability=0.1)
    count: Counter = Counter()
    seeds = set()
    for _ in range(2000):
        geometric, photometric = draw(rng, 64, 64)
        assert isinstance(geometric, TransformList)
        assert isinstance(photometric, TransformList)
        for t in [*geometric.transforms, *photometric.transforms]:
            count[type(t).__name__] += 1
            if isinstance(t, RightAngle):
                count[t.k, t.flip] += 1
            elif isinstance(t, BrightnessContrast):
                assert 0.7 <= t.brightness <= 1.3
                assert 0.7 <= t.contrast <= 1.3
                assert t.brightness != t.contrast
            elif isinstance(t, GaussianNoise):
                assert 0 <= t.std <= 15
                seeds.add(t.seed)
    assert count["RightAngle"] == 2000
    assert [count[k, f] for k in range(4) for f in (False, True)] == pytest.approx([250] * 8, abs=60)
    assert count["GaussianNoise"] == len(seeds) == pytest.approx(600, abs=90)
    assert count["BrightnessContrast"] == pytest.approx(1000, abs=90)
    assert count["Elastic"] == pytest.approx(200, abs=55)


def test_everything_off_is_the_identity() -> None:
    draw = StrongAugmentation(right_angles=False, noise_probability=0, contrast_probability=0)
    geometric, photometric = draw(np.random.default_rng(0), 8, 8)
    assert len(geometric) == len(photometric) == 0


def test_elastic_after_a_turn_of_an_oblong_image_fits() -> None:
    draw = StrongAugmentation(elastic_probability=1)
    for seed in range(8):
        geometric, _ = draw(np.random.default_rng(seed), 40, 70)
        assert geometric.apply_image(np.zeros((40, 70), np.float32)).shape == geometric[0].output_size
