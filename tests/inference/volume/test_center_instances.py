"""Slices split at centers become instances of the volume, however it is cut; where nothing touches, components."""

from __future__ import annotations

import itertools

from prompt_das.inference.volume.block_labels import InstanceRule
from prompt_das.inference.volume.center_instances import CenterRule, SliceParts, link_slices
from prompt_das.ops.split_instances import split_at_centers

import numpy as np
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_maps import LabeledMaps, label_stored_maps, peaks, random_maps


def label_maps(
    probability: np.ndarray,
    density: np.ndarray,
    *,
    clicks: dict[int, np.ndarray] | None = None,
    linked: bool = True,
    min_size: int = 0,
    components: bool = False,
) -> LabeledMaps:
    centers = None if components else CenterRule(0.5, 0.49, 5, clicks or {})
    return label_stored_maps(probability, density, InstanceRule(0.5, min_size, linked, centers))


def blobs(*blobs: tuple[slice, tuple[int, int], int], size: tuple[int, int, int] = (4, 40, 60)) -> np.ndarray:
    """Discs through some slices: (slices, (y, x), radius)."""
    mask = np.zeros(size, bool)
    y, x = np.mgrid[: size[1], : size[2]]
    for slices, (cy, cx), radius in blobs:
        mask[slices] |= (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
    return mask


EVERY = slice(0, 4)
A, B = (20, 18), (20, 41)  # centers of discs of radius 12 that touch
BOTH = blobs((EVERY, A, 12), (EVERY, B, 12))


def stored(mask: np.ndarray) -> np.ndarray:
    return np.uint8(240) * mask


# ---- two that touch


def test_two_that_touch_in_every_slice_are_two_instances_of_the_volume() -> None:
    labels, found, points = label_maps(stored(BOTH), peaks(BOTH.shape, (EVERY, A), (EVERY, B)))
    assert np.array_equal(labels > 0, BOTH)
    assert len(found) == 2
    assert np.unique(labels[:, :, :29]).tolist() == [0, 1]
    assert np.unique(labels[:, :, 31:]).tolist() == [0, 2]
    assert np.abs(points - [[1, 20, 18], [1, 20, 41]]).max() <= 1


def test_clicks_of_a_slice_split_that_slice() -> None:
    clicks = {2: np.array([[18.5, 20.5, 1], [41.5, 20.5, 1]], np.float32)}
    labels, _, _ = label_maps(stored(BOTH), 0 * stored(BOTH), clicks=clicks, linked=False)
    assert [len(np.unique(one)) - 1 for one in labels] == [1, 1, 2, 1]


def test_a_slice_that_was_not_split_goes_to_the_one_it_touches_most() -> None:
    """B is the larger one here; A goes on below and above under ids of its own, and B is not joined with it."""
    mask = blobs((EVERY, A, 10), (EVERY, B, 13))
    clicks = {z: np.array([[18.5, 20.5, 1], [41.5, 20.5, 1]], np.float32) for z in (0, 1, 3)}
    labels, _, _ = label_maps(stored(mask), 0 * stored(mask), clicks=clicks)
    a, b = labels[:, A[0], A[1]].tolist(), labels[:, B[0], B[1]].tolist()
    assert b == [b[0]] * 4
    assert a[0] == a[1]
    assert a[2] == b[2]
    assert len({a[0], b[0], a[3]}) == 3


def test_a_slice_that_misses_a_center_or_has_one_too_many_follows_its_neighbors() -> None:
    density = peaks(BOTH.shape, (EVERY, A), (EVERY, B))
    density[1] = peaks(BOTH.shape, (EVERY, A))[1]
    density[2] = np.maximum(density[2], peaks(BOTH.shape, (EVERY, (20, 8)))[2])
    labels, found, _ = label_maps(stored(BOTH), density)
    assert len(found) == 2
    assert len(np.unique(labels[2, :, :29])) == 2
    labels, _, _ = label_maps(stored(BOTH), density, linked=False)
    assert [len(np.unique(one)) - 1 for one in labels][:2] == [2, 1]  # each slice for itself


def test_branches_that_no_split_has_made_stay_one_instance() -> None:
    """A U: its arms are components of their own, and meet in the last slice."""
    mask = blobs((EVERY, (20, 15), 6), (EVERY, (20, 45), 6))
    mask[3, 17:23, 15:45] = True
    density = peaks(mask.shape, (slice(0, 3), (20, 15)), (slice(0, 3), (20, 45)), (slice(3, 4), (20, 30)))
    labels, found, _ = label_maps(stored(mask), density)
    assert len(found) == 1
    assert np.array_equal(labels > 0, mask)


# ---- links


def parts(*rows: str, component: list[int]) -> SliceParts:
    return SliceParts(np.array([[int(c) for c in row] for row in rows], np.int32), np.array([0, *component]))


def linked(lower: SliceParts, upper: SliceParts) -> list[tuple[int, int]]:
    return sorted(zip(*(side.tolist() for side in link_slices(lower, upper)), strict=True))


def test_links_of_whole_components_are_all_that_touch_even_at_a_corner() -> None:
    lower = parts("1100", "0000", "0002", component=[1, 2])
    upper = parts("0000", "0010", "0000", component=[1])
    assert linked(lower, upper) == [(1, 1), (2, 1)]


def test_of_the_parts_of_a_component_only_the_one_of_most_contact_is_linked() -> None:
    whole = parts("11111111", component=[1])
    split = parts("11122222", component=[1, 1])
    assert linked(whole, split) == [(1, 2)]
    assert linked(split, whole) == [(2, 1)]
    assert linked(split, split) == [(1, 1), (2, 2)]


def test_who_loses_the_part_it_touches_most_gets_the_next_one() -> None:
    """The first below touches the second above most (9 to 5 pairs of pixels), which touches the second below more."""
    lower = parts("111112222222", component=[1, 1])
    upper = parts("112222222222", component=[1, 1])
    assert linked(lower, upper) == [(1, 1), (2, 2)]


def test_who_loses_all_that_it_touches_is_linked_with_nothing() -> None:
    lower = parts("111222222222", component=[1, 1])
    upper = parts("111111111111", component=[1])
    assert linked(lower, upper) == [(2, 1)]


# ---- any volume


@settings(max_examples=10)
@given(random_maps())
def test_instances_are_those_of_an_independent_statement(maps: tuple[np.ndarray, np.ndarray]) -> None:
    labels, found, _ = label_maps(*maps)
    expected = label_at_once(*maps)
    np.testing.assert_array_equal(labels, expected)
    assert found.size.tolist() == np.bincount(expected.ravel(), minlength=1)[1:].tolist()


def label_at_once(probability: np.ndarray, density: np.ndarray) -> np.ndarray:
    """All slices split first, then parts renamed until linked ones agree, then ids in raster order."""
    ends = np.ones(len(density), bool)
    ends[1:-1] = False
    steady = scipy.ndimage.median_filter(density, (3, 1, 1))
    density = np.where(ends[:, None, None], density, steady)
    split = [
        SliceParts(*split_at_centers(p.astype(np.float32) / 255, d.astype(np.float32) / 255, mask=p >= 128))
        for p, d in zip(probability, density, strict=True)
    ]
    names = [1000 * (z + 1) + np.arange(len(one.component)) for z, one in enumerate(split)]
    links = [(z, *link_slices(*pair)) for z, pair in enumerate(itertools.pairwise(split))]
    changed = True
    while changed:
        changed = False
        for z, below, above in links:
            for i, j in zip(below, above, strict=True):
                smaller = min(names[z][i], names[z + 1][j])
                changed |= bool(names[z][i] != smaller or names[z + 1][j] != smaller)
                names[z][i] = names[z + 1][j] = smaller
    named = np.stack([np.where(one.labels > 0, name[one.labels], 0) for one, name in zip(split, names, strict=True)])
    ids, first = np.unique(named, return_index=True)
    order = [int(i) for i in ids[np.argsort(first)] if i]
    return np.vectorize({0: 0, **{name: i + 1 for i, name in enumerate(order)}}.get)(named)


@settings(max_examples=10)
@given(random_maps(), st.booleans(), st.integers(0, 30))
def test_without_centers_instances_are_components(
    maps: tuple[np.ndarray, np.ndarray], linked: bool, min_size: int
) -> None:
    probability, _ = maps
    none = np.zeros_like(probability)
    chosen = {"linked": linked, "min_size": min_size}
    split, found, points = label_maps(probability, none, **chosen)
    whole, expected, nearest = label_maps(probability, none, components=True, **chosen)
    np.testing.assert_array_equal(split, whole)
    np.testing.assert_array_equal(points, nearest)
    assert found.size.tolist() == expected.size.tolist()
