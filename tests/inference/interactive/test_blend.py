"""The blend that is kept: in any order, and after any change, it is what the sliding window makes at once."""

from __future__ import annotations

from random import Random
from typing import Any

from prompt_das.inference.interactive.blend import WindowBlend
from prompt_das.inference.interactive.resize import Box
from prompt_das.ops.sliding_window import WindowGrid, sliding_window

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def tilings(draw: st.DrawFn) -> dict[str, Any]:
    window = draw(st.integers(2, 16))
    return {
        "image_size": draw(st.tuples(st.integers(1, 40), st.integers(1, 40))),
        "window": window,
        "stride": draw(st.integers(max(1, window // 3), window)),
        "blend": draw(st.sampled_from(["uniform", "gaussian"])),
    }


def predictions(grid: WindowGrid, seed: int) -> Tensor:
    """(W, w, w) noise: windows that overlap contradict each other."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(len(grid.corners), grid.window, grid.window, generator=random)


def at_once(parts: Tensor, image_size: tuple[int, int], **tiling: Any) -> Tensor:
    """By the sliding window, whose network answers with the parts one after the other."""
    waiting = iter(parts)
    image = torch.zeros(1, *image_size)
    return sliding_window(image, lambda windows, *_: next(waiting)[None, None], **tiling, batch_size=1)[0]


def cut(values: Tensor, box: Box) -> Tensor:
    y0, x0, y1, x1 = box
    return values[y0:y1, x0:x1]


@settings(max_examples=100)
@given(tilings(), st.randoms(use_true_random=False))
def test_any_order_gives_the_bits_of_the_sliding_window(tiling: dict[str, Any], random: Random) -> None:
    grid = WindowGrid(**tiling)
    parts = predictions(grid, 0)
    blend, order = WindowBlend(grid), list(range(len(parts)))
    random.shuffle(order)
    for index in order:
        blend.set_window(index, b"", parts[index])
        if random.random() < 0.3:
            blend.refresh()
    blend.refresh()
    assert torch.equal(blend.map, at_once(parts, **tiling))


@settings(max_examples=100)
@given(tilings(), st.data())
def test_a_window_that_is_replaced_leaves_nothing_behind(tiling: dict[str, Any], data: st.DataObject) -> None:
    grid = WindowGrid(**tiling)
    first, second = predictions(grid, 0), predictions(grid, 1)
    blend = WindowBlend(grid)
    for index, part in enumerate(first):
        blend.set_window(index, b"first", part)
    assert blend.refresh() == [(0, 0, *grid.image_size)]
    before = blend.map.clone()
    replaced = data.draw(st.sets(st.integers(0, len(first) - 1)))
    for index in replaced:
        blend.set_window(index, b"second", second[index])
    boxes = blend.refresh()
    mixed = torch.stack([second[i] if i in replaced else first[i] for i in range(len(first))])
    assert torch.equal(blend.map, at_once(mixed, **tiling))
    assert [blend.click_key(i) for i in range(len(first))] == [
        b"second" if i in replaced else b"first" for i in range(len(first))
    ]
    elsewhere = torch.ones(grid.image_size, dtype=torch.bool)
    for box in boxes:
        cut(elsewhere, box).fill_(False)
    assert torch.equal(blend.map[elsewhere], before[elsewhere])

    for index in replaced:
        blend.set_window(index, b"first", first[index])
    blend.refresh()
    assert torch.equal(blend.map, before)


@settings(max_examples=100)
@given(tilings(), st.data())
def test_a_pixel_is_known_when_all_windows_that_see_it_are(tiling: dict[str, Any], data: st.DataObject) -> None:
    grid = WindowGrid(**tiling)
    parts = predictions(grid, 0)
    there = data.draw(st.sets(st.integers(0, len(parts) - 1)))
    blend, unknown = WindowBlend(grid), torch.zeros(grid.size, dtype=torch.bool)
    for index, (y, x) in enumerate(grid.corners):
        if index in there:
            blend.set_window(index, b"", parts[index])
        else:
            cut(unknown, (y, x, y + grid.window, x + grid.window)).fill_(True)
    blend.refresh()
    assert torch.equal(blend.map.isnan(), cut(unknown, (0, 0, *grid.image_size)))
    known = ~blend.map.isnan()
    assert torch.equal(blend.map[known], at_once(parts, **tiling)[known])


def test_windows_far_from_each_other_are_boxes_of_their_own() -> None:
    """Windows of 8 px every 4 px: rows and columns begin at 0, 4, 8, 12."""
    blend = WindowBlend(WindowGrid((20, 20), window=8, stride=4, blend="uniform"))
    part = torch.zeros(8, 8)
    for index in (0, 1, 15):
        blend.set_window(index, b"", part)
    assert blend.refresh() == [(0, 0, 8, 12), (12, 12, 20, 20)]
    assert blend.refresh() == []


def test_windows_that_touch_a_box() -> None:
    blend = WindowBlend(WindowGrid((20, 20), window=8, stride=4, blend="uniform"))
    assert blend.windows_overlapping((0, 0, 1, 1)) == [0]
    assert blend.windows_overlapping((8, 0, 9, 4)) == [
        4,
        8,
    ]  # rows from 4 and from 8
    assert blend.windows_overlapping((0, 0, 20, 20)) == list(range(16))
