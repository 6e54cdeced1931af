"""What networks take for mitochondria, or stumble over: the other organelles of a cell, each with its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prompt_das.volumes.synthetic_tissue.canvas import (
    Box,
    Canvas,
    blend,
    box_around,
    cover,
    distance_to_curve,
    line_weight,
    number,
    random_curve,
    smooth_noise,
    tube,
)
from prompt_das.volumes.synthetic_tissue.style import Style

import numpy as np


def draw_organelles(canvas: Canvas, style: Style) -> None:
    """Draw a random number of each kind, in cells and off the mitochondria."""
    for name, draw in ORGANELLES.items():
        expected = style.others[name] * canvas.square_micrometers
        for place in canvas.random_places(number(canvas.rng, expected), 0 if name == "synapse" else 4):
            draw(canvas, style, place.astype(float))


def _round_body(
    canvas: Canvas, place: np.ndarray, radius: tuple[float, float], bumpy: float
) -> tuple[Box, np.ndarray] | None:
    """Box and depth of a roundish body inside its cell; None where something else is in the way."""
    rng, nm = canvas.rng, canvas.nm
    size = rng.uniform(*radius) * nm
    offsets = rng.normal(0, 0.35 * size, (rng.integers(1, 4), 2))
    points, radii = place + offsets, size * rng.uniform(0.7, 1, len(offsets))
    box = box_around(points, size + 4, canvas.shape)
    free = tube(points, radii, box)
    free += bumpy * size * smooth_noise(rng, free.shape, max(size, 3)).clip(-2, 2)
    depth = np.minimum(free, canvas.border[box] - 1)
    depth[canvas.cells[box] != canvas.cells[tuple(place.astype(int))]] = -99
    body = depth > 0
    if body.sum() < max(0.5 * (free > 0).sum(), 6) or not canvas.is_free(box, depth > -2):
        return None
    return box, depth


@dataclass(frozen=True)
class RoundBody:
    """A kind of roundish organelle: smallest and largest radius in nm, how bumpy, and what paints it."""

    name: str
    radius: tuple[float, float]
    bumpy: float
    paint: Callable[[Canvas, Style, Box, np.ndarray], None]

    def __call__(self, canvas: Canvas, style: Style, place: np.ndarray) -> None:
        body = _round_body(canvas, place, self.radius, self.bumpy)
        if body is not None:
            box, depth = body
            self.paint(canvas, style, box, depth)
            canvas.add_object(self.name, box, depth > 0)


def _paint_lysosome(canvas: Canvas, style: Style, box: Box, depth: np.ndarray) -> None:
    rng = canvas.rng
    lumps = smooth_noise(rng, depth.shape, rng.uniform(30, 120) * canvas.nm)
    dark = min(style.membrane, style.matrix - 0.1) + rng.uniform(-0.1, 0.1)
    blend(canvas.picture[box], max(dark, 0.02) + rng.uniform(0, 0.15) * lumps, cover(depth))
    blend(canvas.picture[box], style.membrane, 0.7 * line_weight(depth, 1.5))


def _paint_droplet(canvas: Canvas, style: Style, box: Box, depth: np.ndarray) -> None:
    rng = canvas.rng
    inside = rng.choice([style.cytoplasm + rng.uniform(0, 0.2), style.matrix - rng.uniform(0.1, 0.3)])
    blend(canvas.picture[box], float(np.clip(inside, 0.05, 1)), cover(depth))
    blend(canvas.picture[box], style.membrane, rng.uniform(0, 0.6) * line_weight(depth, 1.2))


def _paint_peroxisome(canvas: Canvas, style: Style, box: Box, depth: np.ndarray) -> None:
    blend(canvas.picture[box], style.matrix + canvas.rng.uniform(-0.05, 0.1), cover(depth))
    blend(canvas.picture[box], style.membrane, 0.6 * line_weight(depth, 1.2))


def _paint_multivesicular(canvas: Canvas, style: Style, box: Box, depth: np.ndarray) -> None:
    rng = canvas.rng
    blend(canvas.picture[box], style.cytoplasm + rng.uniform(-0.05, 0.1), cover(depth))
    blend(canvas.picture[box], style.membrane, 0.9 * line_weight(depth - 0.5, style.membrane_width * canvas.nm + 0.6))
    rows, cols = np.nonzero(depth > 25 * canvas.nm)
    for i in rng.choice(len(rows), min(int(rng.integers(1, 12)), len(rows))) if len(rows) else ():
        _vesicle(canvas, style, np.array([rows[i] + box[0].start, cols[i] + box[1].start]), 22, rng.random() < 0.3)


def _paint_vacuole(canvas: Canvas, style: Style, box: Box, depth: np.ndarray) -> None:
    blend(canvas.picture[box], min(style.cytoplasm + canvas.rng.uniform(0, 0.2), 1.0), cover(depth))
    blend(canvas.picture[box], style.membrane, 0.8 * line_weight(depth, style.membrane_width * canvas.nm + 0.5))


def _paint_whorl(canvas: Canvas, style: Style, box: Box, depth: np.ndarray) -> None:
    """Concentric dark membranes, as in autophagosomes and degenerating axons."""
    rng = canvas.rng
    period = max(rng.uniform(20, 60) * canvas.nm, 1.8)
    wave = (1 + np.cos(2 * np.pi * depth / period)) / 2
    filled = cover(rng.uniform(0.3, 1) * depth.max() - depth)
    blend(canvas.picture[box], style.cytoplasm + 0.05, cover(depth))
    blend(canvas.picture[box], style.membrane, wave * filled * cover(depth))


def _draw_reticulum(canvas: Canvas, style: Style, place: np.ndarray) -> None:
    """A cisterna of the endoplasmic reticulum: two membranes with a pale lumen."""
    length = canvas.rng.uniform(200, 1500) * canvas.nm
    _cisterna(canvas, style, random_curve(canvas.rng, place, length, 12, 1.2), canvas.rng.uniform(25, 80))


def _cisterna(canvas: Canvas, style: Style, curve: np.ndarray, lumen: float) -> None:
    box = box_around(curve, 8, canvas.shape)
    distance = distance_to_curve(curve, box)
    middle = tuple(np.clip(curve[len(curve) // 2].astype(int), 0, np.array(canvas.shape) - 1))
    free = (canvas.cells[box] == canvas.cells[middle]) & (canvas.border[box] > 2)
    free &= (canvas.mitochondria[box] == 0) & (canvas.objects[box] == 0)
    half, width = lumen * canvas.nm / 2, style.membrane_width * canvas.nm
    blend(canvas.picture[box], min(style.cytoplasm + 0.05, 1.0), free * cover(half - distance) * 0.8)
    blend(canvas.picture[box], style.membrane, free * 0.8 * line_weight(distance - half, 1.4 * width))
    canvas.add_object("reticulum", box, free & (distance < half + width))


def _draw_stack(canvas: Canvas, style: Style, place: np.ndarray) -> None:
    """Parallel cisternae: rough reticulum with ribosomes, or a Golgi apparatus if they are short and close."""
    _stack(canvas, style, place, length=canvas.rng.uniform(500, 2000), spacing=canvas.rng.uniform(60, 160))


def _draw_golgi(canvas: Canvas, style: Style, place: np.ndarray) -> None:
    _stack(canvas, style, place, length=canvas.rng.uniform(300, 900), spacing=canvas.rng.uniform(35, 60))
    for offset in canvas.rng.normal(0, 250 * canvas.nm, (canvas.rng.integers(5, 20), 2)):
        _vesicle(canvas, style, place + offset, canvas.rng.uniform(18, 35), False)


def _stack(canvas: Canvas, style: Style, place: np.ndarray, length: float, spacing: float) -> None:
    curve = random_curve(canvas.rng, place, length * canvas.nm, 12, 0.9)
    across = curve[-1] - curve[0]
    across = np.array([-across[1], across[0]]) / max(float(np.linalg.norm(across)), 1e-3)
    for i in range(canvas.rng.integers(3, 7)):
        shorter = curve[: len(curve) - int(canvas.rng.integers(0, 3))]
        _cisterna(canvas, style, shorter + i * spacing * canvas.nm * across, canvas.rng.uniform(15, 40))


def _vesicle(canvas: Canvas, style: Style, center: np.ndarray, radius: float, dense: bool) -> None:
    size = max(radius * canvas.nm, 1.0)
    if not (0 <= center[0] < canvas.shape[0] and 0 <= center[1] < canvas.shape[1]):
        return
    box = box_around(center[None], size + 2, canvas.shape)
    depth = tube(center[None], np.array([size]), box)
    free = canvas.mitochondria[box] == 0
    blend(canvas.picture[box], min(style.cytoplasm + 0.08, 1.0), free * cover(depth))
    if dense:
        blend(canvas.picture[box], style.membrane, free * cover(depth - 0.35 * size))
    blend(canvas.picture[box], style.membrane + 0.08, 0.8 * free * line_weight(depth, 1.3))


def _draw_vesicles(canvas: Canvas, style: Style, place: np.ndarray) -> None:
    """A cloud of synaptic vesicles."""
    _cloud(canvas, style, place, "vesicles", int(canvas.rng.integers(8, 45)), (18, 26), dense=0.03)


def _draw_dense_vesicles(canvas: Canvas, style: Style, place: np.ndarray) -> None:
    _cloud(canvas, style, place, "dense vesicles", int(canvas.rng.integers(1, 8)), (30, 60), dense=0.9)


def _cloud(
    canvas: Canvas,
    style: Style,
    place: np.ndarray,
    name: str,
    count: int,
    radius: tuple[float, float],
    dense: float,
) -> None:
    rng = canvas.rng
    spread = np.sqrt(count) * 1.3 * radius[1] * canvas.nm
    points = place + rng.normal(0, spread, (count, 2))
    rows, cols = points.astype(int).T
    inside = (rows >= 0) & (rows < canvas.shape[0]) & (cols >= 0) & (cols < canvas.shape[1])
    points, rows, cols = points[inside], rows[inside], cols[inside]
    same = (canvas.cells[rows, cols] == canvas.cells[tuple(place.astype(int))]) & (canvas.border[rows, cols] > 2)
    points = points[same]
    if not len(points):
        return
    for point in points:
        _vesicle(canvas, style, point, rng.uniform(*radius), rng.random() < dense)
    around = 2.4 * radius[1] * canvas.nm
    box = box_around(points, around, canvas.shape)
    canvas.add_object(name, box, tube(points, np.full(len(points), around), box) > 0)


def _draw_synapse(canvas: Canvas, style: Style, place: np.ndarray) -> None:
    """A dark density along a piece of membrane."""
    rng, nm = canvas.rng, canvas.nm
    size = rng.uniform(80, 300) * nm
    near = box_around(place[None], 3 * size, canvas.shape)
    rows, cols = np.nonzero(np.abs(canvas.border[near]) < 1.2)
    if not len(rows):
        return
    i = rng.integers(len(rows))
    center = np.array([[rows[i] + near[0].start, cols[i] + near[1].start]], float)
    box = box_around(center, size + 4, canvas.shape)
    cells = canvas.cells[box]
    side = (cells == cells[tuple(np.array(cells.shape) // 2)]) | (rng.random() < 0.3)
    depth = tube(center, np.array([size]), box)
    thick = rng.uniform(15, 45) * nm
    weight = rng.uniform(0.4, 0.9) * line_weight(canvas.border[box].clip(0), 2 * thick) * cover(depth / 3) * side
    blend(canvas.picture[box], style.membrane, weight * (canvas.mitochondria[box] == 0))
    canvas.add_object("synapse", box, weight > 0.3)


Draw = Callable[[Canvas, Style, np.ndarray], None]
BODIES = (
    RoundBody("lysosome", (70, 300), 0.15, _paint_lysosome),
    RoundBody("lipid droplet", (80, 450), 0.03, _paint_droplet),
    RoundBody("peroxisome", (70, 160), 0.05, _paint_peroxisome),
    RoundBody("multivesicular body", (90, 260), 0.08, _paint_multivesicular),
    RoundBody("whorl", (120, 500), 0.12, _paint_whorl),
    RoundBody("vacuole", (35, 220), 0.12, _paint_vacuole),
)
COMPACT = frozenset({"nucleus", *(body.name for body in BODIES)})  # one body with a border of its own
ORGANELLES: dict[str, Draw] = {  # bodies first: thin things go around them
    **{body.name: body for body in BODIES},
    "reticulum stack": _draw_stack,
    "golgi": _draw_golgi,
    "reticulum": _draw_reticulum,
    "vesicles": _draw_vesicles,
    "dense vesicles": _draw_dense_vesicles,
    "synapse": _draw_synapse,
}
