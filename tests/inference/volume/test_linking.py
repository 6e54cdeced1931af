"""Labeling a volume block by block gives what labeling it at once gives."""

from __future__ import annotations

from prompt_das.inference.volume.linking import (
    Block,
    Components,
    label_block,
    link_blocks,
    measure_block,
    split_into_blocks,
)
from prompt_das.ops.connected_components import semantic_to_instances

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st


def label_in_blocks(
    mask: np.ndarray,
    *,
    slices: int = 1,
    linked: bool = True,
    min_size: int = 0,
    probability: np.ndarray | None = None,
) -> tuple[np.ndarray, Components]:
    """What prompt_das.inference.volume.measured_block does with slabs, in memory."""
    probability = mask.astype(float) if probability is None else probability
    whole = Block(0, len(mask), len(mask))
    blocks = split_into_blocks(whole, slices if linked else 1, linked=linked)
    parts = [mask[b.start : b.end] for b in blocks]
    measured = [measure_block(part, probability[b.start : b.end], b)[0] for part, b in zip(parts, blocks, strict=True)]
    tables, instances = link_blocks(measured, min_size)
    labels = [
        table[label_block(part)[0]][: b.stop - b.start] for table, part, b in zip(tables, parts, blocks, strict=True)
    ]
    return np.concatenate(labels), instances


def label_at_once(mask: np.ndarray) -> np.ndarray:
    """An independent statement of it, with SciPy; its labels are in raster order."""
    return scipy.ndimage.label(mask, np.ones((3, 3, 3)))[0]


SIDE = st.one_of(st.integers(1, 3), st.integers(1, 9))  # thin, odd and even
SHAPE = st.tuples(SIDE, SIDE, SIDE)
DENSITY = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.65, 0.8, 1.0])


def test_a_u_is_one_instance_although_its_arms_meet_only_in_the_last_slice() -> None:
    mask = np.zeros((3, 1, 3), bool)
    mask[:, 0, 0] = mask[:, 0, 2] = mask[2, 0, 1] = True
    labels, instances = label_in_blocks(mask)
    np.testing.assert_array_equal(labels[:, 0], [[1, 0, 1], [1, 0, 1], [1, 1, 1]])
    assert instances.size.tolist() == [7]
    assert instances.low.tolist() == [[0, 0, 0]]
    assert instances.high.tolist() == [[3, 1, 3]]
    np.testing.assert_allclose(instances.centroid, [[8 / 7, 0, 1]])


@given(
    shape=SHAPE,
    density=DENSITY,
    slices=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_blocks_give_the_labels_of_the_whole(
    shape: tuple[int, int, int], density: float, slices: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    probability = rng.random(shape)
    labels, instances = label_in_blocks(mask, slices=slices, probability=probability)
    expected = label_at_once(mask)
    np.testing.assert_array_equal(labels, expected)

    ids = np.arange(1, expected.max() + 1)
    assert instances.size.tolist() == [np.sum(expected == i) for i in ids]
    if len(ids):
        np.testing.assert_allclose(instances.centroid, scipy.ndimage.center_of_mass(mask, expected, ids))
        np.testing.assert_allclose(instances.probability, scipy.ndimage.mean(probability, expected, ids))
    boxes = [[(s.start, s.stop) for s in box] for box in scipy.ndimage.find_objects(expected)]
    assert np.stack([instances.low, instances.high], -1).tolist() == np.reshape(boxes, (-1, 3, 2)).tolist()


@given(slices=st.integers(1, 5), min_size=st.integers(0, 12), seed=st.integers(0, 10**6))
def test_small_instances_are_measured_in_the_whole_volume(slices: int, min_size: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((6, 8, 8)) < 0.12
    labels, instances = label_in_blocks(mask, slices=slices, min_size=min_size)
    expected = label_at_once(mask)
    sizes = np.bincount(expected.ravel())
    sizes[0] = 0
    np.testing.assert_array_equal(labels > 0, sizes[expected] > min_size)
    assert instances.size.tolist() == sizes[sizes > min_size].tolist()
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, len(instances) + 1))


@given(shape=SHAPE, density=DENSITY, seed=st.integers(0, 10**6))
def test_a_block_of_any_sides_has_the_components_that_scipy_finds(
    shape: tuple[int, int, int], density: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < density
    labels, count = label_block(mask)
    expected = label_at_once(mask)
    assert count == expected.max()
    np.testing.assert_array_equal(labels > 0, mask)
    pairs = np.unique(np.stack([labels[mask], expected[mask]]), axis=1)
    assert pairs.shape[1] == count  # one to one


@given(shape=SHAPE, density=DENSITY, min_size=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_slices_of_any_sides_have_the_components_that_scipy_finds(
    shape: tuple[int, int, int], density: float, min_size: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < density
    labels, instances = label_in_blocks(mask, linked=False, min_size=min_size)
    in_plane = np.zeros((3, 3, 3))
    in_plane[1] = 1
    expected, _ = scipy.ndimage.label(mask, in_plane)
    sizes = np.bincount(expected.ravel())
    sizes[0] = 0
    kept = sizes > min_size
    np.testing.assert_array_equal(labels, (np.cumsum(kept) * kept)[expected])  # ids in raster order
    assert instances.size.tolist() == sizes[kept].tolist()


def test_a_slice_of_odd_width_keeps_its_background() -> None:
    """cc3d 4.1.1 gives the first pixel of the second row a label."""
    mask = np.array(
        [
            [0, 1, 1, 0, 0],
            [0, 0, 1, 0, 1],
            [0, 0, 1, 1, 1],
        ],
        bool,
    )
    for linked in (True, False):
        labels, instances = label_in_blocks(mask[None], linked=linked)
        np.testing.assert_array_equal(labels[0], mask)
        assert instances.size.tolist() == [7]


def test_unlinked_blocks_are_the_instances_of_slices(rng: np.random.Generator) -> None:
    mask = rng.random((4, 20, 20)) < 0.35
    labels, instances = label_in_blocks(mask, linked=False, min_size=3)
    before = 0
    for z in range(4):
        expected = semantic_to_instances(mask[z], min_size=3)
        np.testing.assert_array_equal(labels[z], np.where(expected, expected + before, 0))
        before += expected.max()
    assert len(instances) == before
    np.testing.assert_array_equal(instances.high[:, 0] - instances.low[:, 0], 1)


def test_blocks_cover_every_slice_once_and_share_one() -> None:
    three = split_into_blocks(Block(0, 5, 5), 2, linked=True)
    assert three == [Block(0, 2, 3), Block(2, 4, 5), Block(4, 5, 5)]
    assert split_into_blocks(Block(0, 5, 5), 2, linked=False) == [Block(0, 2, 2), Block(2, 4, 4), Block(4, 5, 5)]


def test_a_block_that_is_cut_again_keeps_the_slice_that_it_shares_with_the_next() -> None:
    assert split_into_blocks(Block(4, 7, 8), 2, linked=True) == [Block(4, 6, 7), Block(6, 7, 8)]


@pytest.mark.parametrize("linked", [True, False])
def test_nothing_to_label(linked: bool) -> None:
    labels, instances = label_in_blocks(np.zeros((3, 4, 5), bool), linked=linked)
    assert not labels.any()
    assert len(instances) == 0
    assert instances.centroid.shape == (0, 3)


def test_ids_do_not_wrap() -> None:
    """A checkerboard of 70 000 voxels: more than 16 bits hold."""
    mask = np.zeros((1, 600, 600), bool)
    mask[:, ::2, ::2] = True
    labels, instances = label_in_blocks(mask)
    assert labels.max() == len(instances) == 90_000
