"""Sliding-window prediction of a whole slice (Prompt-DAS, Sec. 3.2).

Shapes: C image channels, H x W pixels, w the window's side, W windows in a slice, B of them in a batch; S alternative
sets of prompts for the same image, padded to N points (N' within one window); K output channels.
A point is (x, y) in pixels, the center of the first pixel is (0.5, 0.5); a click (x, y, label) can take its place.

Memory is that of the slice, not of the windows: predictions are added to one running sum. The sum of the blending
weights needs no map, because windows lie on a grid and the weights are a product of one factor in y and one in x.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import reduce
from typing import Any

from prompt_das.ops.points import require_inside

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]

# Presets of the paper's size: ``sliding_window(image, predict, **WINDOW_PRESETS["paper"])``.
WINDOW_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"window": 384, "stride": 128, "rotations": 4},
    "fast": {"window": 384, "stride": 256, "rotations": 1},
}


@torch.no_grad()
def sliding_window(
    image: Tensor,
    predict: Predict,
    *,
    window: int,
    stride: int,
    points: Tensor | None = None,
    valid: Tensor | None = None,
    rotations: int = 1,
    blend: str = "uniform",
    batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Predict an image of any size window by window and average the predictions where windows overlap.

    The last window of each row and column is moved inwards to end at the border. An image smaller than the window is
    padded by reflection at its right and lower border, and the result is cropped.

    Args:
        image: (C, H, W), on the device where ``predict`` works.
        predict: called with windows (B, C, w, w), points (B, S, N', 2 or 3) in pixels of the window and their validity
            (B, S, N'), all on the image's device; returns (B, K, w, w). N' is the same in every call, and may be 0.
        window: side w of the square windows, pixels.
        stride: step between windows, pixels, 1 ... window.
        points: (S, N, 2) prompts, or (S, N, 3) clicks, in pixels of the image; each window gets those inside it. None:
            S = 1, N' = 0.
        valid: (S, N) bool, False for padding. None: all valid.
        rotations: 1, or 4 to average the four right-angle views of every window.
        blend: "uniform", or "gaussian" to trust the middle of a window more than its border.
        batch_size: windows per call; halved, with a warning, each time a CUDA device runs out of memory.
        progress: called with (windows done, windows in all) after each batch.

    Returns:
        (K, H, W) float32 on the image's device.

    Raises:
        ValueError: an argument has a wrong shape or value, or a valid point lies outside the image.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {tuple(image.shape)}; expected (channels, height, width), none of them 0")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; use at least 1")
    check_rotations(rotations)
    height, width = image.shape[1:]
    grid = WindowGrid((height, width), window=window, stride=stride, blend=blend)
    corners = grid.corners
    device = image.device
    image = pad_by_reflection(image, window)
    window_points, window_valid = points_of_windows(points, valid, grid)
    window_points, window_valid = _to_device(window_points, device), _to_device(window_valid, device)
    weight = grid.weight.to(device)

    total: Tensor | None = None
    done = 0
    while done < len(corners):
        chunk = slice(done, done + batch_size)
        windows = torch.stack([image[:, y : y + window, x : x + window] for y, x in corners[chunk]])
        try:
            output = _predict_views(predict, windows, window_points[chunk], window_valid[chunk], rotations)
            output *= weight
        except torch.cuda.OutOfMemoryError:
            if len(windows) == 1:
                raise
            output = None  # retried below, where the exception no longer keeps the failed batch alive
        if output is None:
            batch_size = len(windows) // 2
            del windows
            torch.cuda.empty_cache()
            logger.warning("Out of device memory: batch reduced to %d windows of %d px", batch_size, window)
            continue
        if total is None:
            total = torch.zeros((output.shape[1], *image.shape[1:]), device=device)
        for part, (y, x) in zip(output, corners[chunk], strict=True):
            total[:, y : y + window, x : x + window] += part
        done += len(windows)
        if progress is not None:
            progress(done, len(corners))

    assert total is not None  # there is at least one window
    # Divided row by row and column by column: the weights of a grid of windows are separable.
    total /= grid.norm(0).to(device).unsqueeze(1)
    total /= grid.norm(1).to(device)
    return total[:, :height, :width].contiguous()


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis of ``size`` >= ``window`` pixels; the last one ends at the border."""
    return [*range(0, size - window, stride), size - window]


class WindowGrid:
    """Where the windows of an image lie, and how their predictions are weighted where they overlap.

    Attributes:
        image_size, size: (height, width) in pixels, of the image and of what it is padded to.
        window: side w of the windows.
        ys, xs: first rows and first columns of the windows.
        corners: (y, x) of every window, in raster order.
        weight: (w, w) float32 of the pixels of a prediction.
    """

    def __init__(self, image_size: tuple[int, int], *, window: int, stride: int, blend: str) -> None:
        if not 1 <= stride <= window:
            raise ValueError(f"stride is {stride} px, window {window} px; a stride of 1 ... window leaves no gaps")
        if blend not in ("uniform", "gaussian"):
            raise ValueError(f"blend is {blend!r}; use 'uniform' or 'gaussian'")
        height, width = image_size
        self.image_size = image_size
        self.size = max(height, window), max(width, window)
        self.window = window
        self.ys, self.xs = (window_starts(side, window, stride) for side in self.size)
        self.corners = [(y, x) for y in self.ys for x in self.xs]
        self._profile = _blending_profile(window, blend)
        self.weight = self._profile[:, None] * self._profile

    def norm(self, axis: int) -> Tensor:
        """Sum of the weights along an axis, (H,) for 0 or (W,) for 1; their outer product is the sum at each pixel."""
        norm = torch.zeros(self.size[axis])
        for start in (self.ys, self.xs)[axis]:
            norm[start : start + self.window] += self._profile
        return norm


def check_rotations(rotations: int) -> None:
    """Raise ValueError for a number of right-angle views other than 1 and 4."""
    if rotations not in (1, 4):
        raise ValueError(f"rotations is {rotations}; use 1 (none) or 4 (all right angles)")


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy without waiting for the device: pinned memory makes a copy to CUDA asynchronous."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def pad_by_reflection(image: Tensor, window: int) -> Tensor:
    """Reflect at the right and lower border up to the window's size, as often as needed (n = 1 repeats the pixel)."""
    for dim in (1, 2):
        size = image.shape[dim]
        if size < window:
            period = max(2 * size - 2, 1)
            step = torch.arange(window, device=image.device) % period
            image = image.index_select(dim, torch.minimum(step, period - step) if size > 1 else step)
    return image


def points_of_windows(points: Tensor | None, valid: Tensor | None, grid: WindowGrid) -> tuple[Tensor, Tensor]:
    """Assign the image's points to the windows: (W, S, N', 2 or 3) in pixels of each window, (W, S, N') validity.

    Those of a window keep their order. Done once and on the CPU: N' depends on the data, and the loop over windows
    must not wait for the device.
    """
    count, window = len(grid.corners), grid.window
    if points is None:
        return torch.zeros(count, 1, 0, 2), torch.zeros(count, 1, 0, dtype=torch.bool)
    if points.ndim != 3 or points.shape[-1] not in (2, 3):
        raise ValueError(f"points have shape {tuple(points.shape)}; expected (prompt sets, points, 2 or 3)")
    if valid is None:
        valid = torch.ones(points.shape[:2], dtype=torch.bool)
    if valid.shape != points.shape[:2]:
        raise ValueError(f"valid has shape {tuple(valid.shape)}, points {tuple(points.shape)}; expected (sets, points)")
    points, valid = points.detach().to("cpu", torch.float32), valid.to("cpu", torch.bool)
    require_inside(points[..., :2][valid].numpy(), grid.image_size)

    origin = torch.tensor(grid.corners, dtype=torch.float32).flip(-1)[:, None, None]  # (W, 1, 1, 2) as (x, y)
    local = points - F.pad(origin, (0, points.shape[-1] - 2))
    inside = ((local[..., :2] >= 0) & (local[..., :2] < window)).all(-1) & valid  # (W, S, N)
    most = int(inside.sum(-1).max()) if inside.numel() else 0
    chosen = torch.argsort(~inside, dim=-1, stable=True)[..., :most]  # those inside first, in their given order
    inside = inside.gather(-1, chosen)
    local = local.gather(2, chosen[..., None].expand(-1, -1, -1, points.shape[-1]))
    return torch.where(inside[..., None], local, 0.0), inside


def _predict_views(predict: Predict, windows: Tensor, points: Tensor, valid: Tensor, rotations: int) -> Tensor:
    """Mean float32 prediction (B, K, w, w) over the right-angle views of a batch of windows."""
    outputs = (predict_view(predict, windows, points, valid, turns) for turns in range(rotations))
    return reduce(torch.add, outputs) / rotations


def predict_view(predict: Predict, windows: Tensor, points: Tensor, valid: Tensor, turns: int) -> Tensor:
    """Turn counter-clockwise by ``turns`` right angles, predict, and turn the prediction (B, K, w, w) back."""
    side = windows.shape[-1]
    for _ in range(turns):  # a quarter turn, as torch.rot90, moves (x, y) to (y, side - x)
        points = torch.cat([points[..., 1:2], side - points[..., 0:1], points[..., 2:]], -1)
    output = predict(torch.rot90(windows, turns, (-2, -1)).contiguous(), points * valid[..., None], valid)
    if output.ndim != 4 or output.shape[0] != len(windows) or output.shape[2:] != windows.shape[2:]:
        raise ValueError(
            f"predict returned shape {tuple(output.shape)} for windows {tuple(windows.shape)}; "
            f"expected ({len(windows)}, K, {side}, {side})"
        )
    return torch.rot90(output.float(), -turns, (-2, -1))


def _blending_profile(window: int, blend: str) -> Tensor:
    """(w,) float32 weight along one axis of a window; its outer product with itself is the weight of the pixels."""
    if blend == "uniform":
        return torch.ones(window)
    position = np.arange(window) + 0.5 - window / 2
    profile = np.exp(-0.5 * (position / (window / 8)) ** 2)  # sigma = w/8 as in nnU-Net
    return torch.from_numpy(np.maximum(profile, 1e-3)).float()  # the border of the image is seen by one window only
