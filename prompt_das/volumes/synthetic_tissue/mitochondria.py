"""Mitochondria: round to long, bent and branched bodies with two membranes and cristae."""

from __future__ import annotations

from prompt_das.volumes.synthetic_tissue.canvas import (
    Box,
    Canvas,
    blend,
    box_around,
    cover,
    line_weight,
    number,
    positions,
    random_curve,
    smooth_noise,
    tube,
)
from prompt_das.volumes.synthetic_tissue.style import CRISTAE, Style

import cv2
import numpy as np

MIN_AREA = 7000.0  # nm^2: smaller slivers are drawn, not labeled
TRIES = 3  # places tried for each mitochondrion


def draw_mitochondria(canvas: Canvas, style: Style) -> None:
    """Draw mitochondria inside cells, where there is room, and number them."""
    rng, nm = canvas.rng, canvas.nm
    wanted = number(rng, style.mitochondria * canvas.square_micrometers)
    for place in canvas.random_places(TRIES * wanted, 0.5 * style.radius[0] * nm):
        beside = False
        while int(canvas.mitochondria.max()) < wanted:
            body = _body(canvas, style, place, beside)
            if body is None:
                break
            _paint(canvas, style, *body)
            if rng.random() > style.touching:
                break
            beside = True
            place = place + rng.choice((-1, 1), 2) * rng.uniform(0.8, 1.8, 2) * style.radius[0] * nm
            place = np.clip(place, 0, np.array(canvas.shape) - 1).astype(int)


def _body(canvas: Canvas, style: Style, place: np.ndarray, beside: bool) -> tuple[Box, np.ndarray, float] | None:
    """The box, depth and direction (radians) of a new mitochondrion; None where there is no room for it.

    ``beside``: it may be pressed against others, which cut it.
    """
    rng, nm = canvas.rng, canvas.nm
    radius = rng.uniform(*style.radius) * nm
    fills = rng.random() < style.filling and canvas.border[tuple(place)] < 1.2 * radius
    radius *= 1.25 if fills else 1.0  # the cell's border cuts it
    length = radius * style.elongation * rng.exponential(1.0)
    steps = int(np.clip(2.5 * length / radius, 2, 24))
    angle = rng.uniform(0, 2 * np.pi)
    curve = random_curve(rng, place.astype(float), min(2 * length, 400.0), steps, rng.uniform(0.2, 1.5), angle)
    radii = radius * (1 + 0.2 * np.cumsum(rng.normal(0, 0.4, len(curve))).clip(-2, 2))
    if rng.random() < style.branched and length > radius:
        branch = random_curve(rng, curve[rng.integers(len(curve))], 3 * radius, 7, 0.6)
        curve, radii = np.concatenate([curve, branch]), np.concatenate([radii, 0.8 * radius * np.ones(7)])
    box = box_around(curve, 2 * radius + 4, canvas.shape)
    free = tube(curve, radii, box)
    squash = rng.uniform(0.02, 0.15) * radius
    free += squash * smooth_noise(rng, free.shape, max(1.2 * radius, 4)).clip(-2, 2)
    gap = rng.uniform(0.5, 4)
    depth = np.minimum(free, canvas.border[box] - gap)
    depth[canvas.cells[box] != canvas.cells[tuple(place)]] = -99
    if beside:
        others = cv2.distanceTransform((canvas.mitochondria[box] == 0).astype(np.uint8), cv2.DIST_L2, 5)
        depth = np.minimum(depth, others - 1)
    body = depth > 0
    near = body  # they may touch
    if not beside and rng.random() < 0.5:
        near = cv2.dilate(body.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    enough = (0.4 if fills or beside else 0.6) * (free > 0).sum()
    if body.sum() < max(enough, MIN_AREA * nm**2) or not canvas.is_free(box, near):
        return None
    count, parts, stats, _ = cv2.connectedComponentsWithStats(body.astype(np.uint8), connectivity=8)
    if count > 2:
        largest = 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
        depth[body & (parts != largest)] = -99
    rounded = 0.2 * radius if fills else 1.0  # what cells' borders cut
    return box, cv2.GaussianBlur(depth.clip(-4, None), (0, 0), rounded), angle


def _paint(canvas: Canvas, style: Style, box: Box, depth: np.ndarray, angle: float) -> None:
    rng, nm, picture = canvas.rng, canvas.nm, canvas.picture[box]
    shape = depth.shape
    matrix = style.matrix + style.matrix_spread * float(np.clip(rng.standard_normal(), -2, 2))
    inside = matrix + style.matrix_grain * (
        0.6 * smooth_noise(rng, shape, 25 * nm) + 0.6 * smooth_noise(rng, shape, 80 * nm)
    )
    width = max(style.rim_width * nm, 0.8)
    inner = np.clip((depth - 1.5 * width) / (1.5 * width), 0, 1)
    kind = style.cristae if rng.random() < 0.8 else CRISTAE[rng.integers(len(CRISTAE))]
    inside -= style.cristae_contrast * rng.uniform(0.6, 1.2) * inner * _cristae(canvas, style, kind, box, depth, angle)
    if rng.random() < 0.05:  # swollen
        inside += rng.uniform(0.05, 0.3) * cover((depth - rng.uniform(0.3, 0.6) * depth.max()) / 3)
    for _ in range(number(rng, 0.4)):  # granules of the matrix
        y, x = positions(box)
        at = rng.integers(0, shape, 2) + np.array([box[0].start, box[1].start])
        inside -= 0.15 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (12 * nm + 0.7) ** 2)
    if rng.random() < style.crowded:
        _crowd(canvas, style, box, depth, matrix)
    blend(picture, inside, cover(depth))
    if style.inner_gap:
        blend(picture, min(matrix + style.inner_gap, 1.0), 0.8 * line_weight(depth - 1.6 * width, width))
        blend(picture, style.rim, 0.6 * line_weight(depth - 2.6 * width, width))
    blend(picture, style.rim, line_weight(depth - 0.5 * width, 1.4 * width) * rng.uniform(0.6, 1))
    body = (depth > 0) & (canvas.mitochondria[box] == 0) & (canvas.objects[box] == 0)
    if body.sum() >= MIN_AREA * nm**2:
        canvas.mitochondria[box][body] = canvas.mitochondria.max() + 1


def _crowd(canvas: Canvas, style: Style, box: Box, depth: np.ndarray, matrix: float) -> None:
    """Make the cytoplasm around a mitochondrion nearly as dark: its membrane alone tells where it ends."""
    rng, cells = canvas.rng, canvas.cells[box]
    distance = cv2.distanceTransform((depth <= 0).astype(np.uint8), cv2.DIST_L2, 5)
    near = np.exp(-((distance / (rng.uniform(0.3, 0.8) * max(depth.max(), 4))) ** 2))
    near *= cells == cells[np.unravel_index(depth.argmax(), depth.shape)]
    shade = matrix + rng.uniform(-0.03, 0.1) + 0.7 * style.grain * smooth_noise(rng, depth.shape, 25 * canvas.nm)
    blend(canvas.picture[box], shade, rng.uniform(0.5, 1) * near)


def _cristae(canvas: Canvas, style: Style, kind: str, box: Box, depth: np.ndarray, angle: float) -> np.ndarray:
    """Where cristae are (h, w), 0 to 1."""
    rng, nm, shape = canvas.rng, canvas.nm, depth.shape
    period = max(style.cristae_period * nm * rng.uniform(0.8, 1.25), 2.2)
    if kind == "none":
        return np.zeros(shape, np.float32)
    sparse = np.clip(0.8 + 0.6 * smooth_noise(rng, shape, 2.5 * period), 0, 1)
    if kind == "lamellar":
        y, x = positions(box)
        along = angle + (np.pi / 2 if rng.random() < 0.4 else 0.0) + rng.normal(0, 0.3)
        phase = (y * np.cos(along) - x * np.sin(along)) + 0.5 * period * smooth_noise(rng, shape, 2.5 * period)
        wave = (1 + np.cos(2 * np.pi * phase / period)) / 2
        return sparse * wave**1.5
    if kind == "concentric":
        wave = (1 + np.cos(2 * np.pi * (depth + 0.3 * period * smooth_noise(rng, shape, 2 * period)) / period)) / 2
        return sparse * wave**1.5
    noise = smooth_noise(rng, shape, 0.6 * period)
    if kind == "tubular":
        return np.clip(1.5 * noise - 0.3, 0, 1)
    return sparse * np.exp(-((noise / 0.4) ** 2))  # irregular: the level lines of the noise
