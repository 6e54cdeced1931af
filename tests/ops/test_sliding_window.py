"""Sliding window: what is put together from windows equals what would have been made in one piece."""

from __future__ import annotations

import logging
from itertools import pairwise

from prompt_das.ops.sliding_window import WINDOW_PRESETS, sliding_window, window_starts

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def identity(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
    return windows


def mark_points(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
    """1 at the pixel of every valid point, one channel per set of prompts: shows where prompts arrive."""
    side = windows.shape[-1]
    marks = torch.zeros(*points.shape[:2], side * side)
    pixels = points.floor().long()
    marks.scatter_reduce_(2, pixels[..., 1] * side + pixels[..., 0], valid.float(), "amax")
    return marks.unflatten(-1, (side, side))


@st.composite
def tilings(draw: st.DrawFn) -> dict:
    window = draw(st.integers(2, 24))
    return {
        "size": (draw(st.integers(1, 40)), draw(st.integers(1, 40))),
        "window": window,
        "stride": draw(st.integers(max(1, window // 4), window)),
        "rotations": draw(st.sampled_from([1, 4])),
        "blend": draw(st.sampled_from(["uniform", "gaussian"])),
        "batch_size": draw(st.integers(1, 9)),
    }


@settings(max_examples=120)
@given(tilings())
def test_identity_stitches_to_the_image(tiling: dict) -> None:
    image = torch.rand(2, *tiling.pop("size"))
    stitched = sliding_window(image, identity, **tiling)
    assert stitched.dtype == torch.float32
    torch.testing.assert_close(stitched, image, rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(tilings())
def test_a_network_without_context_stitches_to_its_output_on_the_whole_image(tiling: dict) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1))
    image = torch.rand(1, *tiling.pop("size"))
    stitched = sliding_window(image, lambda windows, points, valid: network(windows), **tiling)
    with torch.no_grad():
        torch.testing.assert_close(stitched, network(image[None])[0], rtol=1e-4, atol=1e-5)


def one_by_one(image: Tensor, network: torch.nn.Module, tiling: dict) -> Tensor:
    """The definition, one window and one view at a time: weighted sum divided by the sum of weights."""
    window, stride = tiling["window"], tiling["stride"]
    padding = [(0, 0), *((0, max(0, window - size)) for size in image.shape[1:])]
    padded = torch.from_numpy(np.pad(image.numpy(), padding, mode="reflect"))
    axis = torch.arange(window) + 0.5 - window / 2
    profile = torch.exp(-0.5 * (8 * axis / window) ** 2).clamp(1e-3)
    weight = torch.outer(profile, profile) if tiling["blend"] == "gaussian" else torch.ones(window, window)
    total, norm = torch.zeros_like(padded), torch.zeros_like(padded)
    for y in window_starts(padded.shape[1], window, stride):
        for x in window_starts(padded.shape[2], window, stride):
            there = (slice(None), slice(y, y + window), slice(x, x + window))
            views = []
            for turns in range(tiling["rotations"]):
                views.append(network(padded[there].rot90(turns, (1, 2))[None])[0].rot90(-turns, (1, 2)))
            total[there] += weight * torch.stack(views).mean(0)
            norm[there] += weight
    return (total / norm)[:, : image.shape[1], : image.shape[2]]


@settings(max_examples=60)
@given(tilings())
def test_a_network_with_context_gives_the_weighted_mean_of_its_windows_and_views(tiling: dict) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1)  # neither symmetric nor blind to the window's border
    image = torch.rand(1, *tiling.pop("size"))
    with torch.no_grad():
        expected = one_by_one(image, network, tiling)
    stitched = sliding_window(image, lambda windows, points, valid: network(windows), **tiling)
    torch.testing.assert_close(stitched, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60)
@given(tilings(), st.integers(0, 2**32 - 1))
def test_prompts_turn_with_their_window(tiling: dict, seed: int) -> None:
    """A prompt marks its own pixel in every view of every window that holds it, so the mean there is 1, elsewhere 0."""
    (height, width), sets, count = tiling.pop("size"), 2, 5
    random = torch.Generator().manual_seed(seed)
    pixels = torch.rand(sets, count, 2, generator=random) * torch.tensor([width, height])
    points = pixels.floor() + 0.5
    valid = torch.rand(sets, count, generator=random) < 0.7
    marks = sliding_window(torch.zeros(1, height, width), mark_points, points=points, valid=valid, **tiling)
    expected = torch.zeros(sets, height, width)
    for one_set in range(sets):
        for (x, y), is_valid in zip(pixels[one_set].long(), valid[one_set], strict=True):
            if is_valid:
                expected[one_set, y, x] = 1
    torch.testing.assert_close(marks, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("turns", "expected"),
    # A point 1 px from the left and 3 px from the top of a window of 8, as torch.rot90 turns the window.
    [(0, (1.0, 3.0)), (1, (3.0, 7.0)), (2, (7.0, 5.0)), (3, (5.0, 1.0))],
)
def test_a_quarter_turn_by_hand(turns: int, expected: tuple[float, float]) -> None:
    seen = []

    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        seen.append(points)
        return windows

    sliding_window(torch.zeros(1, 8, 8), predict, window=8, stride=8, rotations=4, points=torch.tensor([[[1.0, 3.0]]]))
    assert len(seen) == 4
    assert tuple(seen[turns][0, 0, 0].tolist()) == expected


def test_each_window_gets_the_prompts_that_lie_inside_it() -> None:
    """Two windows of 8 px on an image of 12 x 8; N' is the largest number in any window and set."""
    calls = []

    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        calls.append((points, valid))
        return windows

    points = torch.tensor([[[1.5, 2.5], [5.5, 2.5], [8.0, 7.5]]])  # left, both, right: a window ends before x = 8
    sliding_window(torch.zeros(1, 8, 12), predict, window=8, stride=8, points=points, batch_size=2)
    (local, valid) = calls[0]
    assert local.shape == (2, 1, 2, 2)
    assert valid.all()
    assert local[0, 0].tolist() == [[1.5, 2.5], [5.5, 2.5]]
    assert local[1, 0].tolist() == [[1.5, 2.5], [4.0, 7.5]]


@pytest.mark.parametrize("points", [None, torch.zeros(3, 0, 2)])
def test_no_prompt_is_legal(points: Tensor | None) -> None:
    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        assert points.shape[2:] == (0, 2)
        assert valid.shape == points.shape[:3]
        return windows.expand(-1, points.shape[1], -1, -1)

    result = sliding_window(torch.ones(1, 10, 10), predict, window=8, stride=4, points=points)
    assert result.shape == ((1 if points is None else 3), 10, 10)


def test_a_small_image_is_continued_by_reflection() -> None:
    seen = []

    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        seen.append(windows)
        return windows

    sliding_window(torch.tensor([[[1.0, 2.0, 3.0]]]), predict, window=8, stride=8)
    assert seen[0][0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2]
    assert (seen[0] == seen[0][:, :, :1]).all()  # a single row is repeated


@given(st.integers(1, 200), st.data())
def test_windows_cover_every_pixel_and_stay_inside(window: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(window, 600))
    stride = data.draw(st.integers(1, window))
    starts = window_starts(size, window, stride)
    assert starts[0] == 0
    assert starts[-1] == size - window
    steps = [after - before for before, after in pairwise(starts)]
    assert all(0 < step <= stride for step in steps)


def test_gaussian_blending_weighs_the_middle_of_a_window_more() -> None:
    """Two overlapping windows that predict 0 and 1: the blend runs from one to the other instead of jumping."""

    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        return torch.arange(2.0)[:, None, None, None].expand(2, 1, 8, 8)

    result = sliding_window(torch.zeros(1, 8, 12), predict, window=8, stride=4, blend="gaussian", batch_size=2)[0, 0]
    assert (result[:4] == 0).all()
    assert (result[8:] == 1).all()
    assert (result[4:8].diff() > 0).all()
    torch.testing.assert_close(result[4:8] + result[4:8].flip(0), torch.ones(4))


def test_half_precision_is_summed_in_float32() -> None:
    result = sliding_window(
        torch.full((1, 40, 40), 0.3), lambda w, p, v: w.bfloat16(), window=16, stride=1, batch_size=64
    )
    torch.testing.assert_close(result, torch.full((1, 40, 40), torch.tensor(0.3).bfloat16().item()))


def test_batches_shrink_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    image, sizes = torch.rand(1, 30, 30), []

    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        sizes.append(len(windows))
        if len(windows) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return windows

    with caplog.at_level(logging.WARNING):
        result = sliding_window(image, predict, window=8, stride=4, batch_size=16)
    torch.testing.assert_close(result, image)
    assert sizes[:4] == [16, 8, 4, 2]
    assert sum(size for size in sizes if size <= 2) == len(window_starts(30, 8, 4)) ** 2
    assert [record.args[0] for record in caplog.records] == [8, 4, 2]


def test_one_window_that_does_not_fit_is_an_error() -> None:
    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        sliding_window(torch.zeros(1, 16, 16), predict, window=8, stride=8)


def test_progress_counts_windows() -> None:
    calls: list[tuple[int, int]] = []
    sliding_window(
        torch.zeros(1, 16, 24), identity, window=8, stride=8, batch_size=4, progress=lambda *c: calls.append(c)
    )
    assert calls == [(4, 6), (6, 6)]


def test_number_of_forward_passes_of_the_presets() -> None:
    """3 600 for a MitoEM slice with the paper's, as in the authors' code; 256 with the fast one."""
    paper, fast = WINDOW_PRESETS["paper"], WINDOW_PRESETS["fast"]
    assert len(window_starts(4096, paper["window"], paper["stride"])) ** 2 * paper["rotations"] == 3600
    assert len(window_starts(4096, fast["window"], fast["stride"])) ** 2 * fast["rotations"] == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(8, 8)}, r"image has shape \(8, 8\)"),
        ({"image": torch.zeros(1, 0, 8)}, r"image has shape \(1, 0, 8\)"),
        ({"stride": 9}, "stride is 9 px, window 8 px"),
        ({"stride": 0}, "stride is 0 px"),
        ({"rotations": 2}, "rotations is 2"),
        ({"blend": "linear"}, "blend is 'linear'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"points": torch.zeros(4, 2)}, r"points have shape \(4, 2\)"),
        ({"points": torch.zeros(1, 4, 2), "valid": torch.ones(1, 3)}, r"valid has shape \(1, 3\)"),
        (
            {"points": torch.tensor([[[2.0, 3.0], [10.0, 3.0]]])},
            r"point 1 \(x=10, y=3\) .* image of 10 x 12",
        ),
        ({"predict": lambda w, p, v: w[..., :4]}, r"predict returned shape \(4, 1, 8, 4\)"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    arguments = {"image": torch.zeros(1, 12, 10), "predict": identity, "window": 8, "stride": 4} | change
    with pytest.raises(ValueError, match=message):
        sliding_window(arguments.pop("image"), arguments.pop("predict"), **arguments)


def test_points_outside_the_image_are_ignored_where_they_are_padding() -> None:
    points, valid = torch.tensor([[[-1.0, -1.0]]]), torch.zeros(1, 1, dtype=torch.bool)
    assert not sliding_window(torch.zeros(1, 8, 8), mark_points, window=8, stride=8, points=points, valid=valid).any()


@pytest.mark.gpu
def test_cuda_equals_cpu_and_the_loop_does_not_wait_for_the_device() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 1)
    image, points = torch.rand(1, 100, 70), torch.tensor([[[30.5, 40.5]]])
    arguments = {"window": 32, "stride": 16, "rotations": 4, "points": points}
    expected = sliding_window(image, lambda w, p, v: network(w), **arguments)
    network = network.cuda()

    def predict(windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        assert {windows.device.type, points.device.type, valid.device.type} == {"cuda"}
        # Unlike a wait for one event, an accidental .item() or .cpu() between two calls is an error from here on.
        torch.cuda.set_sync_debug_mode("error")
        return network(windows)

    try:
        result = sliding_window(
            image.cuda(), predict,
            progress=lambda done, total: torch.cuda.set_sync_debug_mode("error" if done < total else "default"),
            **arguments,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), expected)
