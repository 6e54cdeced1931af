"""Cells: a partition of the canvas, their cytoplasm, their membranes, nuclei and myelin."""

from __future__ import annotations

from prompt_das.volumes.synthetic_tissue.canvas import (
    Canvas,
    blend,
    box_around,
    cover,
    line_weight,
    rotated_noise,
    smooth_noise,
    tube,
)
from prompt_das.volumes.synthetic_tissue.style import Style

import cv2
import numpy as np
from scipy.special import erfinv

# Smallest and largest radius of a cell's profile, in nm.
CELL_RADIUS = {"neuropil": (30, 900), "soma": (500, 4000), "packed": (300, 4000), "bundle": (60, 400)}
MAX_DISCS = 900
TRIES = 6  # places tried for each disc
WINDING_CELL = 1


def draw_cells(rng: np.random.Generator, shape: tuple[int, int], nm: float, style: Style) -> Canvas:
    """A canvas with cells: cytoplasm and membranes."""
    cells, border = _partition(rng, shape, nm, style)
    canvas = Canvas(rng, nm, np.empty(shape, np.float32), cells, border)
    count = max(int(cells.max()), WINDING_CELL) + 1
    shade = style.cytoplasm + style.cytoplasm_spread * rng.standard_normal(count).clip(-2, 2)
    kind = rng.random(count)
    dark = kind < style.dark_cells
    dark[WINDING_CELL] = style.winding_cell == "dark"
    shade[dark] -= rng.uniform(0.08, 0.3)
    texture = _cytoplasm(rng, shape, nm, style)
    empty = kind > 1 - style.empty_cells
    empty[WINDING_CELL] = style.winding_cell == "empty"
    shade[empty] = style.cytoplasm + rng.uniform(0, 0.2)
    strength = np.where(empty, 0.15, rng.uniform(0.6, 1.2, count)).astype(np.float32)
    canvas.picture[:] = shade.astype(np.float32)[cells] + strength[cells] * texture
    for cell in np.flatnonzero(empty):  # mitochondria find no room there
        canvas.border[cells == cell] *= -1
    return canvas


def _partition(
    rng: np.random.Generator, shape: tuple[int, int], nm: float, style: Style
) -> tuple[np.ndarray, np.ndarray]:
    """Cells (H, W) int32, and the distance to their borders (H, W).

    Discs of very different sizes are packed; each pixel belongs to the nearest, or to the thin cell that winds between
    them all; then space is stretched and warped.
    """
    low, high = (length * nm for length in CELL_RADIUS[style.tissue])
    largest = float(np.exp(rng.uniform(np.log(0.3 * high), np.log(high))))
    smallest = float(np.exp(rng.uniform(np.log(low), np.log(min(3 * low, 0.6 * largest)))))
    margin = 20
    height, width = shape[0] + 2 * margin, shape[1] + 2 * margin
    seeds = np.full((height, width), 255, np.uint8)
    for (y, x), radius in zip(*_packed_discs(rng, (height, width), smallest, largest), strict=True):
        cv2.circle(seeds, (int(x), int(y)), int(radius), 0, -1)
    seeds[0, 0] = 0  # never without a cell
    distance, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    if style.winding_cell:
        cells[distance > rng.uniform(0.6, 1.6) * smallest] = WINDING_CELL
    cells = cv2.remap(
        cells.astype(np.float32), *_warp(rng, shape, largest, margin), cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    )
    different = np.zeros(shape, np.uint8)
    different[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    different[1:] |= cells[1:] != cells[:-1]
    border = cv2.distanceTransform(1 - different, cv2.DIST_L2, 5) if different.any() else np.full(shape, 99.0)
    return cells.astype(np.int32), border.astype(np.float32)


def _packed_discs(
    rng: np.random.Generator, shape: tuple[int, int], smallest: float, largest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centers (N, 2) and radii (N,) of discs that do not overlap, the larger the fewer."""
    # Of a power law, by inversion of its distribution.
    power = rng.uniform(0.8, 2.2)
    u = rng.random(MAX_DISCS)
    radii = (smallest**-power + u * (largest**-power - smallest**-power)) ** (-1 / power)
    wanted = np.searchsorted(np.cumsum(np.pi * radii**2), 1.1 * shape[0] * shape[1])
    radii = np.sort(radii[: wanted + 1])[::-1]
    centers = rng.random((len(radii), TRIES, 2)) * shape
    placed, count = np.empty((len(radii), 3)), 0  # y, x, radius
    for tries, radius in zip(centers, radii, strict=True):
        y, x, others = placed[:count].T
        squared = (tries[:, :1] - y) ** 2 + (tries[:, 1:] - x) ** 2
        free = np.flatnonzero((squared > (others + radius + 1) ** 2).all(axis=1))
        if len(free):
            placed[count] = *tries[free[0]], radius
            count += 1
    return placed[:count, :2], placed[:count, 2]


def _warp(rng: np.random.Generator, shape: tuple[int, int], size: float, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns and rows (H, W) that the pixels of the canvas are taken from."""
    rows, cols = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, stretch = rng.uniform(0, np.pi), float(np.exp(rng.uniform(0, 0.35)))
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = cos * cols + sin * rows, cos * rows - sin * cols
    along, across = along / stretch, across * stretch
    cols, rows = cos * along - sin * across, sin * along + cos * across
    for axis in (rows, cols):
        axis += margin
        for wave, strength in ((1.6, 0.3), (0.5, 0.06)):
            amplitude = strength * rng.random() * size
            axis += amplitude * smooth_noise(rng, shape, max(wave * size, 12)).clip(-2.5, 2.5)
        axis += rng.uniform(0, 1.2) * smooth_noise(rng, shape, 8).clip(-2.5, 2.5)
    return cols.astype(np.float32), rows.astype(np.float32)


def _cytoplasm(rng: np.random.Generator, shape: tuple[int, int], nm: float, style: Style) -> np.ndarray:
    """Texture (H, W): ribosomes and vesicles as dark grains, clouds, and filaments."""
    grain = smooth_noise(rng, shape, style.grain_size * nm)
    dotted = -np.maximum(grain - rng.uniform(0, 1), 0)
    texture = style.grain * (dotted - dotted.mean()) * 1.5
    texture += 0.4 * style.grain * smooth_noise(rng, shape, 120 * nm)
    texture += 0.3 * style.grain * smooth_noise(rng, shape, 8 * nm)
    if style.clouds:
        crowded = smooth_noise(rng, shape, rng.uniform(120, 400) * nm) - rng.uniform(0.3, 1.3)
        texture -= style.clouds * np.clip(2 * crowded, 0, 1) * (1 + 0.4 * smooth_noise(rng, shape, 30 * nm))
    if style.fibers > 0.03:
        strands = rotated_noise(rng, shape, 25 * nm, rng.uniform(6, 20), rng.uniform(0, 180))
        texture -= style.fibers * np.maximum(strands - 0.5, 0)
    return texture


def draw_membranes(canvas: Canvas, style: Style) -> None:
    """Draw the membranes between cells, each as one line or, with extracellular space, as two."""
    rng, distance = canvas.rng, np.abs(canvas.border)
    width = style.membrane_width * canvas.nm * np.exp(0.25 * smooth_noise(rng, canvas.shape, 300 * canvas.nm))
    strength = np.clip(0.9 + 0.2 * smooth_noise(rng, canvas.shape, 200 * canvas.nm), 0.3, 1)
    gap = style.extracellular_gap * canvas.nm
    oblique = smooth_noise(rng, canvas.shape, 350 * canvas.nm) > np.sqrt(2) * erfinv(1 - 2 * style.oblique)
    band = rng.uniform(30, 90) * canvas.nm
    smear = cv2.GaussianBlur(oblique.astype(np.float32), (0, 0), max(40 * canvas.nm, 0.5))
    blend(canvas.picture, style.membrane, rng.uniform(0.3, 0.7) * smear * np.exp(-((distance / band) ** 2)))
    blend(canvas.picture, style.membrane, strength * np.exp(-(((distance - gap) / np.maximum(width, 0.6)) ** 2)))
    if gap > 1:
        filling = style.membrane + 0.1 if style.dark_gap else min(style.cytoplasm + 0.1, 1.0)
        blend(canvas.picture, filling, cover(gap - 1 - distance) * 0.8)


def draw_myelin(canvas: Canvas, style: Style) -> None:
    """Wrap some cells in dark lamellae."""
    rng = canvas.rng
    for cell in rng.choice(np.unique(canvas.cells), rng.integers(1, 3)):
        inside = (canvas.cells == cell) & (canvas.border > 0)
        thick = min(rng.uniform(40, 220) * canvas.nm, 0.4 * canvas.border[inside].max(initial=0))
        if thick < 3:
            continue
        period = max(rng.uniform(12, 30) * canvas.nm, 1.5)
        lamellae = 0.08 * np.cos(2 * np.pi * canvas.border / period)
        sheath = np.where(inside, cover(thick - canvas.border), 0)
        blend(canvas.picture, style.membrane * rng.uniform(0.5, 1.1) + lamellae, sheath)
        canvas.border[inside] -= thick + 4  # what lies inside keeps off the sheath
        canvas.add_object("myelin", (slice(None), slice(None)), sheath > 0.5)


def draw_nucleus(canvas: Canvas, style: Style) -> None:
    """Draw a part of a nucleus: an envelope of two membranes around patches of chromatin."""
    rng, nm = canvas.rng, canvas.nm
    radius = rng.uniform(1200, 4000) * nm
    angle = rng.uniform(0, 2 * np.pi)
    away = radius - rng.uniform(0.1, 0.6) * max(canvas.shape)
    center = np.array(canvas.shape) / 2 + max(away, 0) * np.array([np.sin(angle), np.cos(angle)])
    box = box_around(center[None], radius + 10, canvas.shape)
    depth = tube(center[None], np.array([radius]), box)
    shape = depth.shape
    depth += 0.06 * radius * smooth_noise(rng, shape, max(0.5 * radius, 20)).clip(-2, 2)
    shade = style.cytoplasm + rng.uniform(-0.15, 0.1)
    clumps = smooth_noise(rng, shape, rng.uniform(150, 500) * nm)
    clumps += rng.uniform(0, 1.5) * np.exp(-(((depth - 60 * nm) / (80 * nm)) ** 2))
    dark = 1 / (1 + np.exp(-rng.uniform(2, 6) * (clumps - rng.uniform(0, 1.2))))
    picture = shade - rng.uniform(0.05, 0.35) * dark + 0.8 * style.grain * smooth_noise(rng, shape, 20 * nm)
    blend(canvas.picture[box], picture, cover(depth))
    width = style.membrane_width * nm
    blend(canvas.picture[box], style.membrane, line_weight(depth - 1.2 * width, 1.5 * width) * 0.8)
    blend(canvas.picture[box], style.membrane, line_weight(depth + 1.2 * width, 1.5 * width) * 0.8)
    inside = depth > -2 * width
    canvas.border[box][inside] = -1
    canvas.add_object("nucleus", box, inside)
