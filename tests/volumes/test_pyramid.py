"""Coarser levels, against what can be worked out by hand, and against a whole volume at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prompt_das.volumes.pyramid import Level, coarsen, mean, mode, plan_levels

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def test_z_is_halved_once_voxels_are_as_thick_as_wide() -> None:
    levels = plan_levels((101, 4096, 3000), (30, 8, 8))
    assert [level.factors for level in levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
    assert [level.shape for level in levels] == [
        (101, 4096, 3000),
        (101, 2048, 1500),
        (101, 1024, 750),
        (51, 512, 375),
        (26, 256, 188),
    ]


@pytest.mark.parametrize(
    ("voxel_size", "factors"),
    [((8, 8, 8), (2, 2, 2)), ((10, 8, 8), (2, 2, 2)), ((12, 8, 8), (1, 2, 2)), (None, (1, 2, 2))],
)
def test_near_isotropic_voxels_stay_so_and_unknown_ones_are_left_alone_in_z(
    voxel_size: tuple[float, float, float] | None, factors: tuple[int, int, int]
) -> None:
    assert plan_levels((40, 300, 300), voxel_size)[1].factors == factors


def test_a_volume_that_fits_the_screen_has_one_level_and_sides_of_1_are_not_halved() -> None:
    assert plan_levels((500, 256, 256), (8, 8, 8)) == [Level((500, 256, 256), (1, 1, 1))]
    assert plan_levels((1, 300, 1), (8, 8, 8))[1] == Level((1, 150, 1), (1, 2, 1))


def test_the_mean_is_rounded_half_up_and_an_odd_side_ends_with_its_own_mean() -> None:
    one = np.array([[0, 1, 9], [2, 3, 10]], np.uint8)
    (coarse,) = coarsen([one], (1, 2, 2), mean)
    assert coarse.tolist() == [[2, 10]]  # 6 / 4 = 1.5, 38 / 4 = 9.5
    (both,) = coarsen([one, one + 200], (2, 2, 2), mean)
    assert both.tolist() == [[102, 110]]  # 812 / 8 = 101.5, 876 / 8 = 109.5


def test_labels_become_the_most_frequent_one_and_never_another() -> None:
    one = np.array([[5, 5, 0, 7], [0, 5, 7, 0], [1, 2, 8, 9]], np.uint32)
    (coarse,) = coarsen([one], (1, 2, 2), mode)
    assert coarse.dtype == np.uint32
    assert coarse.tolist() == [[5, 0], [1, 8]]  # equally frequent: the first
    (both,) = coarsen([one, np.full_like(one, 2)], (2, 2, 2), mode)
    assert both.tolist() == [[2, 2], [2, 2]]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)),
    st.integers(0, 2**32 - 1),
)
def test_a_stream_of_slices_gives_what_each_window_of_the_volume_gives(
    shape: tuple[int, int, int], step: tuple[int, int, int], seed: int
) -> None:
    volume = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    averaged, chosen = (np.stack(list(coarsen(volume, step, reduce))) for reduce in (mean, mode))
    assert averaged.shape == tuple(-(-side // by) for side, by in zip(shape, step, strict=True))
    for z, y, x in np.ndindex(averaged.shape):
        window = volume[tuple(slice(i * by, (i + 1) * by) for i, by in zip((z, y, x), step, strict=True))]
        assert averaged[z, y, x] == np.floor(window.mean() + 0.5)
        counts = Counter(window.ravel().tolist())
        assert counts[int(chosen[z, y, x])] == max(counts.values())


def test_no_more_than_two_slices_are_drawn_for_a_coarser_one() -> None:
    drawn = []

    def slices() -> Iterator[np.ndarray]:
        for z in range(100):
            drawn.append(z)
            yield np.zeros((4, 4), np.uint8)

    next(coarsen(coarsen(slices(), (2, 2, 2), mean), (2, 2, 2), mean))
    assert drawn == [0, 1, 2, 3]
