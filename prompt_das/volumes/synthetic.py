"""Procedural EM volumes in two styles: a source and a target domain that need no download.

Not a model of any tissue, but the same problem: cells with dark membranes, granular cytoplasm, vesicles, and things
that resemble mitochondria (dark bodies, pale organelles with a membrane) around mitochondria with a dark outer membrane
and cristae that run on through the slices. The target style is paler, noisier and more blurred, and its mitochondria
are larger and less dark, so that a network trained on the source loses there, as between two tissues or microscopes.

Z, H, W: slices, height, width. Lengths are in pixels of a slice; a slice is `SLICE_DISTANCE` pixels thick, as in
MitoEM (30 nm and 8 nm).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

SLICE_DISTANCE = 3.75
CELL_SIZE = 56.0  # mean distance of cell centers
PADDING = 6  # slices made above and below and cut off, so that the first and last slice hold as much as the others
MIN_AREA = 60  # pixels of an instance in a slice: thinner slivers are not labeled
MEMBRANE_GAP = 3.0  # between a mitochondrion and its cell's membrane
MITOCHONDRIA_PER_MEGAVOXEL = 115.0  # tried; some find no room
OTHERS_PER_MEGAVOXEL = 70.0


@dataclass(frozen=True)
class Style:
    """Intensities (0 black, 1 white), lengths in pixels."""

    cytoplasm: float
    cytoplasm_spread: float  # between cells
    grain: float  # standard deviation of the cytoplasm's texture
    membrane: float
    membrane_width: float
    matrix: float  # inside of mitochondria
    cristae: float
    cristae_period: float
    rim: float  # outer membrane of mitochondria
    radius: tuple[float, float]  # of mitochondria, smallest and largest
    half_length: tuple[float, float]
    others: float  # inside of the pale organelles
    dark_body: tuple[float, float]  # radius of bodies that are dark throughout, smallest and largest
    blur: float
    noise: float
    gamma: float
    flicker: float  # brightness differences between slices


STYLES = {
    "source": Style(
        cytoplasm=0.70, cytoplasm_spread=0.04, grain=0.075, membrane=0.20, membrane_width=1.5,
        matrix=0.46, cristae=0.24, cristae_period=5.0, rim=0.18, radius=(7.0, 11.5), half_length=(5, 26), others=0.72,
        dark_body=(2.5, 5.5), blur=0.7, noise=0.045, gamma=1.0, flicker=0.01,
    ),
    "target": Style(
        cytoplasm=0.63, cytoplasm_spread=0.035, grain=0.065, membrane=0.36, membrane_width=2.0,
        matrix=0.46, cristae=0.15, cristae_period=6.5, rim=0.32, radius=(8.0, 12.5), half_length=(3, 18), others=0.67,
        dark_body=(3.5, 7.5), blur=1.1, noise=0.06, gamma=0.87, flicker=0.02,
    ),
}  # fmt: skip


def make_synthetic_volume(
    shape: tuple[int, int, int], style: str = "source", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A volume of `shape` (Z, H, W): images uint8 and instance ids uint16 (0 background), the same for the same seed.

    Meant for small volumes: it takes about 150 bytes and a microsecond a voxel.

    Raises ValueError for an unknown style or a shape too small to hold a mitochondrion.
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < 64:
        raise ValueError(f"shape must be (slices, height, width) with slices of at least 64 x 64, not {shape}")
    look = STYLES[style]
    rng = np.random.default_rng([seed, list(STYLES).index(style)])
    padded = (shape[0] + 2 * PADDING, *shape[1:])
    cell, border = _cells(rng, padded)
    labels, depth, cristae = _mitochondria(rng, cell, border, look)

    shade = look.cytoplasm + look.cytoplasm_spread * rng.standard_normal(cell.max() + 1).clip(-2, 2)
    picture = shade[cell].astype(np.float32)
    picture += look.grain * (0.8 * _noise(rng, padded, 5.0) - np.maximum(_noise(rng, padded, 1.3), 0) + 0.4)
    _add_others(rng, picture, border, labels, look)
    _blend(picture, look.membrane, np.exp(-((border / look.membrane_width) ** 2)))

    inside = labels > 0
    matrix = look.matrix + 0.05 * _noise(rng, padded, 2.0)[inside]
    picture[inside] = matrix - look.cristae * cristae[inside] * np.clip((depth[inside] - 1.5) / 1.5, 0, 1)
    _blend(picture, look.rim, np.exp(-(((depth - 1.0) / 1.3) ** 2)) * (depth > -2.5))

    kept = slice(PADDING, PADDING + shape[0])
    ids, labels = np.unique(labels[kept], return_inverse=True)  # ids 1..n; some lay in the padding only
    if ids[0] != 0:
        labels += 1
    return _expose(rng, picture[kept], look), labels.reshape(shape).astype(np.uint16)


def _noise(rng: np.random.Generator, shape: tuple[int, int, int], size: float) -> np.ndarray:
    """Smooth noise, the same in all directions, with blobs about `size` pixels wide, mean 0, standard deviation 1."""
    blob = size / np.array([SLICE_DISTANCE, 1.0, 1.0])
    step = np.maximum(blob / 2, 1.0)  # large blobs are filtered on a coarse grid
    grid = np.ceil(np.array(shape) / step).astype(int) + 1
    noise = ndimage.gaussian_filter(rng.standard_normal(grid, dtype=np.float32), blob / step, truncate=3.0)
    noise = ndimage.zoom(noise, np.array(shape) / grid, order=1)
    return (noise - noise.mean()) / noise.std()


def _cells(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tissue: which cell a voxel belongs to, and its distance to that cell's border (in pixels).

    A power diagram (a Voronoi diagram of cells of different sizes) in coordinates that are warped smoothly.
    """
    extent = np.array(shape) * (SLICE_DISTANCE, 1, 1)
    margin = CELL_SIZE
    count = int(np.prod((extent + 2 * margin) / CELL_SIZE))
    centers = rng.uniform(-margin, extent + margin, (count, 3))
    lift = rng.uniform(0, 1.1 * CELL_SIZE, (count, 1))  # fourth coordinate: the higher, the smaller the cell
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"), -1)
    grid[..., 0] *= SLICE_DISTANCE
    for axis, strength in enumerate((9.0, 14.0, 14.0)):
        grid[..., axis] += strength * (_noise(rng, shape, 24.0) + 0.22 * _noise(rng, shape, 8.0))
    voxels = np.concatenate([grid, np.zeros((*shape, 1), np.float32)], -1).reshape(-1, 4)
    distance, nearest = cKDTree(np.hstack([centers, lift])).query(voxels, k=2)
    between = np.linalg.norm(centers[nearest[:, 0]] - centers[nearest[:, 1]], axis=1)
    border = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * np.maximum(between, 1e-3))
    return nearest[:, 0].reshape(shape), border.reshape(shape).astype(np.float32)


def _mitochondria(
    rng: np.random.Generator, cell: np.ndarray, border: np.ndarray, look: Style
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bent, bumpy capsules inside cells: instance ids, depth below the surface (negative outside), cristae (0..1)."""
    shape = cell.shape
    labels = np.zeros(shape, np.uint16)
    depth = np.full(shape, -99.0, np.float32)
    cristae = np.zeros(shape, np.float32)
    bumps, warp, ripples = _noise(rng, shape, 6.0), _noise(rng, shape, 8.0), _noise(rng, shape, 3.0)
    roomy = np.flatnonzero(border > look.radius[0] + MEMBRANE_GAP)
    wanted = round(MITOCHONDRIA_PER_MEGAVOXEL * cell.size / 1e6) + 1 if roomy.size else 0
    for index in rng.choice(roomy, wanted):
        z, y, x = np.unravel_index(index, shape)
        radius, half_length = rng.uniform(*look.radius), rng.uniform(*look.half_length)
        axis, side = _unit(rng.standard_normal(3) * (0.6, 1, 1)), rng.standard_normal(3)
        t = np.linspace(-1, 1, 3 + int(4 * half_length / radius))[:, None]
        curve = np.array([z * SLICE_DISTANCE, y, x]) + t * half_length * axis + 0.15 * t**2 * half_length * side

        box = _box(curve, radius + 4, shape)
        points = _positions(box)
        distance = cKDTree(curve).query(points)[0].astype(np.float32)
        free = radius + 1.2 * bumps[box] - distance
        inner = np.where(cell[box] == cell[z, y, x], _smooth_minimum(free, border[box] - MEMBRANE_GAP), -99)
        inner = np.where(_large_parts(inner > 0), inner, np.minimum(inner, -3))
        body = inner > 0
        if body.sum() < 0.75 * (free > 0).sum() or (labels[box][inner > -2.5] > 0).any() or not body.any():
            continue
        labels[box][body] = labels.max() + 1
        depth[box] = np.maximum(depth[box], inner)
        across = _unit(axis * (0.2, 1, 1) + 0.3 * rng.standard_normal(3) * (0.2, 1, 1))
        phase = (points @ across + 3.5 * warp[box]) / look.cristae_period
        stripes = ((1 + np.cos(2 * np.pi * phase)) / 2) ** 2 * np.clip(0.7 + 0.6 * ripples[box], 0, 1)
        cristae[box][body] = stripes[body]
    return labels, depth, cristae


def _large_parts(body: np.ndarray) -> np.ndarray:
    """The largest connected part of a body, without the slices where it is a sliver."""
    parts, count = ndimage.label(body)
    if count > 1:
        body = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return body & (body.sum(axis=(1, 2)) >= MIN_AREA)[:, None, None]


def _add_others(
    rng: np.random.Generator, picture: np.ndarray, border: np.ndarray, labels: np.ndarray, look: Style
) -> None:
    """Draw what is not a mitochondrion: pale organelles, dark bodies, and small vesicles in groups."""
    shape = picture.shape
    places = np.flatnonzero((border > 5) & (labels == 0))
    for index in rng.choice(places, round(OTHERS_PER_MEGAVOXEL * picture.size / 1e6) + 1 if places.size else 0):
        center = np.array(np.unravel_index(index, shape)) * (SLICE_DISTANCE, 1, 1)
        kind = rng.choice(3, p=(0.35, 0.25, 0.4))
        if kind == 0:
            _add_sphere(picture, center, rng.uniform(4, 8.5), look.others, look.membrane + 0.1)
        elif kind == 1:
            dark = look.membrane + rng.uniform(-0.05, 0.1)
            _add_sphere(picture, center, rng.uniform(*look.dark_body), dark, dark)
        else:
            for offset in rng.normal(0, 11, (rng.integers(8, 25), 3)):
                _add_sphere(picture, center + offset, rng.uniform(2.2, 3.2), look.others, look.membrane + 0.18)


def _add_sphere(picture: np.ndarray, center: np.ndarray, radius: float, inside: float, rim: float) -> None:
    box = _box(center[None], radius + 3, picture.shape)
    depth = radius - np.linalg.norm(_positions(box) - center, axis=-1)
    _blend(picture[box], inside, np.clip(depth + 0.5, 0, 1))
    _blend(picture[box], rim, np.exp(-((depth / 1.1) ** 2)))


def _blend(picture: np.ndarray, value: float, weight: np.ndarray) -> None:
    picture += weight * (value - picture)


def _box(curve: np.ndarray, margin: float, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    scale = np.array([SLICE_DISTANCE, 1.0, 1.0])
    low = np.clip(np.floor((curve.min(0) - margin) / scale), 0, np.array(shape) - 1).astype(int)
    high = np.clip(np.ceil((curve.max(0) + margin) / scale) + 1, low + 1, shape).astype(int)
    z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
    return z, y, x


def _positions(box: tuple[slice, ...]) -> np.ndarray:
    """(Z, H, W, 3) positions (z, y, x) of a box's voxels, in pixels."""
    z, y, x = (np.arange(axis.start, axis.stop, dtype=np.float32) for axis in box)
    return np.stack(np.meshgrid(z * SLICE_DISTANCE, y, x, indexing="ij"), axis=-1)


def _smooth_minimum(a: np.ndarray, b: np.ndarray, width: float = 4.0) -> np.ndarray:
    """Minimum that rounds the edge where a and b are about equal."""
    weight = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + weight * (a - b) - width * weight * (1 - weight)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _expose(rng: np.random.Generator, picture: np.ndarray, look: Style) -> np.ndarray:
    """The microscope: blur, noise, brightness that flickers from slice to slice."""
    picture = ndimage.gaussian_filter(picture, (0, look.blur, look.blur))
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    picture += look.noise * noise
    picture += look.flicker * rng.standard_normal((picture.shape[0], 1, 1), dtype=np.float32)
    return (255 * np.clip(picture, 0, 1) ** look.gamma).round().astype(np.uint8)
