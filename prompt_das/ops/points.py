"""Points: centers of instances, sparse annotation, density maps and their peaks (Prompt-DAS, Sec. 2).

Shapes: B images, N points of an image (padded, with a boolean validity mask), M anchors, K peaks, H×W pixels.
A point is (x, y) in pixels; the center of the first pixel is (0.5, 0.5), so the pixel in row r, column c is the
point (c + 0.5, r + 0.5).
A click is a point with a label, (x, y, label): 1 (positive, "this is one") or 0 (negative, "this is none"). Wherever
clicks are taken, points without labels are positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prompt_das.ops.connected_components import label_components, window_max

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DENSITY_SIGMA = 9.5  # pixels; the authors' value
PEAK_THRESHOLD = 0.49  # the authors' 125 / 255
POSITIVE, NEGATIVE = 1, 0  # labels of clicks
POINT_BUCKET = 16
_CHUNK_ELEMENTS = 1 << 24  # largest temporary of render_density: 64 MiB in float32


def random_pixels(where: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Centers (n, 2) of up to ``number`` random pixels of ``where`` (H, W) bool."""
    index = np.flatnonzero(where)
    index = rng.choice(index, min(number, len(index)), replace=False)
    return np.stack([index % where.shape[1], index // where.shape[1]], axis=1).astype(np.float32) + np.float32(0.5)


def instance_centers(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Center of every instance of a slice: its rounded centroid, or its own pixel nearest to that.

    One function serves prompts, density targets and test prompts, so they agree to the pixel. A center always lies on
    its instance, also on crescents and rings.

    Args:
        labels: integer (H, W), 0 background; ids may have gaps and any size.

    Returns:
        ids (n,) in increasing order, in the dtype of ``labels``, and points (n, 2) float32.

    Raises:
        ValueError: ``labels`` is not a two-dimensional integer array.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: integer array of shape (H, W) expected, got {labels.dtype} {labels.shape}")
    rows, cols = np.nonzero(labels > 0)
    ids, index = np.unique(labels[rows, cols], return_inverse=True)
    area = np.bincount(index, minlength=len(ids))
    row = np.rint(np.bincount(index, weights=rows, minlength=len(ids)) / area).astype(np.int64)
    col = np.rint(np.bincount(index, weights=cols, minlength=len(ids)) / area).astype(np.int64)

    outside = labels[row, col] != ids
    if outside.any():
        pixel = np.flatnonzero(outside[index])
        index, rows, cols = index[pixel], rows[pixel], cols[pixel]
        distance = (rows - row[index]) ** 2 + (cols - col[index]) ** 2
        order = np.lexsort((distance, index))  # stable: equally near pixels stay in raster order
        which, first = np.unique(index[order], return_index=True)
        row[which], col[which] = rows[order[first]], cols[order[first]]
    return ids, np.stack([col, row], axis=1).astype(np.float32) + np.float32(0.5)


def as_clicks(points: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """(N, 2) points and their (N,) labels, by default all positive -> (N, 3) float32; (N, 3) clicks stay as they are.

    Raises:
        ValueError: another shape, another number of labels than of points, or a label that is neither 0 nor 1.
    """
    points = np.asarray(points, dtype=np.float32)
    if points.size == 0:
        return np.zeros((0, 3), np.float32)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"points have shape {points.shape}; expected (N, 2): x, y, or (N, 3): x, y, label")
    if labels is None:
        labels = points[:, 2] if points.shape[1] == 3 else np.full(len(points), POSITIVE)
    labels = np.asarray(labels, dtype=np.float32)
    if labels.shape != (len(points),):
        raise ValueError(f"labels have shape {labels.shape} for {len(points)} points; give one label for each point")
    odd = ~np.isin(labels, (POSITIVE, NEGATIVE))
    if odd.any():
        raise ValueError(f"label {labels[odd][0]:g} of a point; it is 1 (positive) or 0 (negative)")
    return np.column_stack([points[:, :2], labels])


def split_labels(points: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2) points or (..., 3) clicks -> the points (..., 2) and (...) bool: which of them are positive."""
    if points.shape[-1] == 2:
        return points, torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)
    return points[..., :2], points[..., 2] > 0.5


def outside_image(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 2) points -> (N,) bool: which lie outside an image of ``size`` (H, W). NaN is outside."""
    height, width = size
    inside = (points >= 0) & (points < (width, height))
    return np.asarray(~inside.all(axis=1))


def require_inside(points: np.ndarray, size: tuple[int, int], what: str = "") -> None:
    """Raise ValueError if one of the (N, 2) points lies outside an image of ``size`` (H, W).

    ``what``: begins the message, which names the first such point; the file that it comes from, for example.
    """
    outside = outside_image(points, size)
    if outside.any():
        index = int(np.flatnonzero(outside)[0])
        x, y = points[index]
        raise ValueError(
            f"{what}point {index} (x={x:g}, y={y:g}) lies outside the image of {size[1]} x {size[0]} px (width x "
            f"height), as {outside.sum()} of {len(points)} do; are x and y swapped, or is it another resolution?"
        )


def sample_sparse_points(points: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the sparse points of a slice: ceil(ratio · n) of its n points.

    With generators of the same seed a larger ratio only adds points: the 15 % are part of the 50 %.

    Args:
        points: (n, 2).
        ratio: 0 to 1.
        rng: the source of randomness.

    Returns:
        (ceil(ratio · n), 2), in the order of ``points``.

    Raises:
        ValueError: the ratio is not in [0, 1].
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"the ratio of sparse points is {ratio}; use 0 to 1 (15 % is 0.15)")
    count = math.ceil(ratio * len(points) - 1e-9)  # 0.07 · 100 is 7.000000000000001 in floating point
    chosen = rng.permutation(len(points))[:count]
    return points[np.sort(chosen)]


def pad_points(
    points: Sequence[Tensor], device: torch.device | str | None = None, *, valid: Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Stack the points of several images, padded with zeros to the largest number.

    To a GPU they are copied without waiting for it, if they lie in pinned memory. There the number is rounded up to a
    multiple of ``POINT_BUCKET``, since kernels are chosen and compiled for each shape that occurs.

    Args:
        points: one (Ni, 2) tensor for each image, or (Ni, 3) for each, clicks; Ni may be 0.
        device: where the result lies; by default where the first points lie.
        valid: one (Ni,) bool for each image; None: all are.

    Returns:
        points (B, N, 2), or clicks (B, N, 3), float32, and valid (B, N) bool; N is the largest Ni, which may be 0.
    """
    if not points:
        return torch.zeros(0, 0, 2, device=device), torch.zeros(0, 0, dtype=torch.bool, device=device)
    device = torch.device(device if device is not None else points[0].device)
    length = max(len(p) for p in points)
    if device.type == "cuda":
        length = -(-length // POINT_BUCKET) * POINT_BUCKET
    known = valid or [torch.ones(len(p), dtype=torch.bool, device=device) for p in points]
    padded = [F.pad(p.to(device, torch.float32, non_blocking=True), (0, 0, 0, length - len(p))) for p in points]
    known = [F.pad(v.to(device, non_blocking=True), (0, length - len(v))) for v in known]
    return torch.stack(padded), torch.stack(known)


def pack_points(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding to the end and cut it off. On a CPU only: on a GPU the host would have to wait for the count.

    Args:
        points, valid: (B, N, 2), or clicks (B, N, 3), and (B, N) bool, with gaps.

    Returns:
        The same points in the same order, the valid ones first: (B, N', ...) and (B, N'). N' is the largest number of
        valid ones of an image; on a GPU the arguments are returned as they are.
    """
    if valid.device.type != "cpu":
        return points, valid
    most = int(valid.sum(1).max()) if valid.numel() else 0
    order = torch.argsort(~valid, dim=1, stable=True)[:, :most]
    return points.gather(1, order[..., None].expand(-1, -1, points.shape[-1])), valid.gather(1, order)


def render_density(points: Tensor, valid: Tensor, size: tuple[int, int], sigma: float = DENSITY_SIGMA) -> Tensor:
    """Density map of points: a Gaussian of peak 1 at every point, combined by the per-pixel maximum.

    The maximum of Gaussians is the Gaussian of the smallest distance, and the maximum keeps every peak at 1 where a
    sum would not. Values are taken at pixel centers. Memory beyond the result is bounded: points go in chunks.

    Args:
        points: (B, N, 2); they may lie outside the image.
        valid: (B, N) bool; the others are ignored.
        size: (H, W) in pixels.
        sigma: standard deviation in pixels.

    Returns:
        float32 (B, H, W) in [0, 1]; zero where an image has no points.
    """
    (height, width), batch = size, len(points)
    points = points.float()
    dx = torch.arange(width, device=points.device) + 0.5 - points[..., 0:1]  # (B, N, W)
    dy = torch.arange(height, device=points.device) + 0.5 - points[..., 1:2]  # (B, N, H)
    dx = dx.square().masked_fill(~valid[..., None], math.inf)
    dy = dy.square()
    nearest = points.new_full((batch, height, width), math.inf)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, batch * height * width))
    for x, y in zip(dx.split(chunk, dim=1), dy.split(chunk, dim=1), strict=True):
        if x.shape[1]:
            nearest = torch.minimum(nearest, (y[..., :, None] + x[..., None, :]).amin(dim=1))
    return torch.exp(nearest / (-2.0 * sigma**2))


@torch.no_grad()
def find_peaks(
    density: Tensor, threshold: float = PEAK_THRESHOLD, kernel: int = 5, top_k: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Peaks of a density map: the non-maximum suppression that yields pseudo-labels.

    A peak is a pixel of at least ``threshold`` that is the maximum of its ``kernel``×``kernel`` window. Maxima that
    reach each other through their windows are one plateau and count once, at its first pixel in raster order.

    Args:
        density: (B, H, W); any floating-point type, values are compared in float32.
        threshold: lowest value of a peak.
        kernel: odd width of the window in pixels.
        top_k: K, the number of peaks kept of an image.

    Returns:
        points (B, K, 2) at pixel centers, valid (B, K) bool, scores (B, K): the highest peaks first, equal ones in
        raster order; where there are fewer than K peaks, the rest is zero and not valid.

    Raises:
        ValueError: an even kernel, whose window has no middle pixel.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernel of find_peaks is {kernel}; it must be odd, 5 for example")
    height, width = density.shape[1:]
    density = density.float() + 0.0  # -0.0 becomes 0.0
    peak = (density >= threshold) & (density == window_max(density, kernel))
    index = torch.arange(height * width, device=density.device)
    peak = peak.flatten(1) & (label_components(peak, kernel).flatten(1) == index)

    # torch.topk breaks ties arbitrarily: select by (score, -index) packed into one integer instead. The bits of a
    # float, read as an integer, have the order of the floats when those of negative numbers are flipped.
    bits = density.flatten(1).view(torch.int32).long()
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = torch.where(peak, (bits << 32) - index, torch.iinfo(torch.int64).min)
    index = key.topk(min(top_k, height * width)).indices
    index = F.pad(index, (0, top_k - index.shape[1]))
    valid = peak.gather(1, index)
    valid &= torch.arange(top_k, device=density.device) < height * width
    scores = density.flatten(1).gather(1, index) * valid
    points = torch.stack([index % width, index // width], dim=-1) + 0.5
    return points * valid[..., None], valid, scores


def suppress_near(points: Tensor, valid: Tensor, anchors: Tensor, anchors_valid: Tensor, radius: float) -> Tensor:
    """Drop the points that are closer to an anchor than ``radius``.

    Args:
        points, valid: (B, N, 2) and (B, N) bool.
        anchors, anchors_valid: (B, M, 2) and (B, M) bool; M may be 0.
        radius: in pixels; a point at exactly this distance is kept.

    Returns:
        valid (B, N) bool without the dropped points.
    """
    distance = (points[:, :, None] - anchors[:, None]).square().sum(-1)  # (B, N, M)
    return valid & ~((distance < radius**2) & anchors_valid[:, None]).any(-1)
