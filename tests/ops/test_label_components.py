"""Connected components of batches, against OpenCV's and SciPy's."""

from __future__ import annotations

from collections.abc import Callable

from prompt_das.ops.connected_components import connected_components, label_components

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

masks = arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)))


def first_pixels(labels: np.ndarray) -> np.ndarray:
    """The smallest index of each pixel's component; of background pixels their own."""
    index = np.arange(labels.size)
    first = np.full(labels.max() + 1, labels.size)
    np.minimum.at(first, labels.ravel(), index)
    return np.where(labels.ravel() > 0, first[labels.ravel()], index).reshape(labels.shape)


@given(masks)
def test_eight_neighbors_as_in_opencv(batch: np.ndarray) -> None:
    roots = label_components(torch.from_numpy(batch)).numpy()
    for mask, root in zip(batch, roots, strict=True):
        np.testing.assert_array_equal(root, first_pixels(connected_components(mask)))


@given(masks, st.sampled_from([1, 5]))
def test_pixels_further_apart_may_be_neighbors(batch: np.ndarray, kernel: int) -> None:
    roots = label_components(torch.from_numpy(batch), kernel).numpy()
    for mask, root in zip(batch, roots, strict=True):
        # Pixels share a component if their windows of half the width touch.
        reach = kernel // 2
        grown = np.zeros([2 * side + 2 * reach for side in mask.shape], bool)
        grown[reach : reach + 2 * mask.shape[0] : 2, reach : reach + 2 * mask.shape[1] : 2] = mask
        grown = ndimage.binary_dilation(grown, np.ones((2 * reach + 1, 2 * reach + 1))) if reach else grown
        labels, _ = ndimage.label(grown, np.ones((3, 3)) if reach > 1 else ndimage.generate_binary_structure(2, 1))
        labels = labels[reach : reach + 2 * mask.shape[0] : 2, reach : reach + 2 * mask.shape[1] : 2] * mask
        assert (root[mask][:, None] == root[mask]).tolist() == (labels[mask][:, None] == labels[mask]).tolist()


def spiral(side: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    top, left, bottom, right = 0, 0, side - 1, side - 1
    mask[top, left : right + 1] = True
    while bottom - top >= 2 and right - left >= 2:
        mask[top : bottom + 1, right] = mask[bottom, left : right + 1] = True
        top += 2
        mask[top : bottom + 1, left] = True
        right -= 2
        mask[top, left : right + 1] = True
        left, bottom = left + 2, bottom - 2
    return mask


def serpentine(side: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[::2] = True
    for i, row in enumerate(range(1, side - 1, 2)):
        mask[row, -1 if i % 2 == 0 else 0] = True
    return mask


def sponge(side: int) -> np.ndarray:
    """So many random pixels that the clusters are as ragged as they get."""
    return np.random.default_rng(0).random((side, side)) < 0.407


@pytest.mark.parametrize("side", [2, 33, 128, 384])
@pytest.mark.parametrize("shape", [spiral, serpentine, sponge, lambda side: np.ones((side, side), bool)])
def test_a_gpu_s_fixed_number_of_rounds_is_enough(
    shape: Callable[[int], np.ndarray], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU does not look whether anything has changed: here nothing ever seems to be done early."""
    monkeypatch.setattr(torch, "equal", lambda *args: False)
    mask = shape(side)
    views = np.stack([np.rot90(mask, k) for k in range(4)])
    roots = label_components(torch.from_numpy(views)).numpy()
    for view, root in zip(views, roots, strict=True):
        np.testing.assert_array_equal(root, first_pixels(connected_components(view)))
