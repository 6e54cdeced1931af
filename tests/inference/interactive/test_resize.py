"""Bilinear resizing: box by box it is what torch makes of the whole map."""

from __future__ import annotations

from prompt_das.inference.interactive.resize import BilinearResize, Box

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> Box:
    (y0, y1), (x0, x1) = (sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in size)
    return y0, x0, y1, x1


def within(values: torch.Tensor, box: Box) -> torch.Tensor:
    y0, x0, y1, x1 = box
    return values[y0:y1, x0:x1]


@settings(max_examples=200)
@given(sizes, sizes, st.data())
def test_a_box_is_cut_from_the_whole(in_size: tuple[int, int], out_size: tuple[int, int], data: st.DataObject) -> None:
    values = torch.rand(in_size)
    resize = BilinearResize(in_size, out_size)
    whole = resize(values, (0, 0, *out_size))
    expected = F.interpolate(values[None, None], size=out_size, mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-6)
    box = data.draw(boxes(out_size))
    assert torch.equal(resize(values, box), within(whole, box))  # to the bit


def test_a_slice_of_mitoem_from_a_quarter_of_its_resolution() -> None:
    values = torch.rand(64, 1024)
    expected = F.interpolate(values[None, None], size=(250, 4095), mode="bilinear", align_corners=False)[0, 0]
    result = BilinearResize((64, 1024), (250, 4095))(values, (0, 0, 250, 4095))
    # Neighbors differ by up to 1, and a float32 position in 512 ... 1024 is known to 6e-5.
    torch.testing.assert_close(result, expected, rtol=0, atol=6e-5)


@settings(max_examples=200)
@given(sizes, sizes, st.data())
def test_nothing_outside_the_affected_box_changes(
    in_size: tuple[int, int], out_size: tuple[int, int], data: st.DataObject
) -> None:
    values, resize = torch.rand(in_size), BilinearResize(in_size, out_size)
    before = resize(values, (0, 0, *out_size)).clone()
    changed = data.draw(boxes(in_size))
    within(values, changed).add_(1)
    within(before, resize.affected(changed)).zero_()
    after = resize(values, (0, 0, *out_size)).clone()
    within(after, resize.affected(changed)).zero_()
    assert torch.equal(before, after)


@settings(max_examples=200)
@given(sizes, sizes, st.data())
def test_pixels_outside_the_needed_box_do_not_count(
    in_size: tuple[int, int], out_size: tuple[int, int], data: st.DataObject
) -> None:
    values, resize = torch.rand(in_size), BilinearResize(in_size, out_size)
    box = data.draw(boxes(out_size))
    alone = torch.full(in_size, torch.nan)
    within(alone, resize.needed(box)).copy_(within(values, resize.needed(box)))
    assert torch.equal(resize(alone, box), resize(values, box))


@pytest.mark.parametrize(("box", "affected"), [((0, 0, 1, 1), (0, 0, 6, 6)), ((2, 3, 3, 4), (6, 10, 14, 18))])
def test_affected_boxes_by_hand(box: Box, affected: Box) -> None:
    """Four times larger: input pixel 2 lies at 8 ... 12, and is mixed into its neighbors' nearer halves."""
    assert BilinearResize((8, 8), (32, 32)).affected(box) == affected
