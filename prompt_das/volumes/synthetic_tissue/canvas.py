"""The picture that a micrograph is drawn on, and the shapes that are drawn.

H, W: rows and columns of the canvas. A body is a part of the canvas with the depth of each pixel below the body's
surface, in pixels, negative outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

Box = tuple[slice, slice]
OUTSIDE = np.float32(-99)


@dataclass
class Canvas:
    """A micrograph that is being drawn.

    Attributes:
        rng: all randomness.
        nm: pixels a nanometer.
        picture: (H, W) float32 gray values, 0 black, 1 white.
        cells: (H, W) int32, which cell a pixel belongs to.
        border: (H, W) float32 distance to the border of that cell, in pixels.
        mitochondria: (H, W) uint16 ids, 0 where there is none.
        objects: (H, W) uint16 ids of all other objects, 0 where there is none.
        classes: the name of each object; id 1 is the first.
    """

    rng: np.random.Generator
    nm: float
    picture: np.ndarray
    cells: np.ndarray
    border: np.ndarray
    mitochondria: np.ndarray = field(init=False)
    objects: np.ndarray = field(init=False)
    classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mitochondria = np.zeros(self.shape, np.uint16)
        self.objects = np.zeros(self.shape, np.uint16)

    @property
    def shape(self) -> tuple[int, int]:
        return self.picture.shape[0], self.picture.shape[1]

    @property
    def square_micrometers(self) -> float:
        return self.picture.size / (1000 * self.nm) ** 2

    def add_object(self, name: str, box: Box, inside: np.ndarray) -> None:
        """Give the pixels ``inside`` (of the box) that hold nothing yet to a new object."""
        free = inside & (self.mitochondria[box] == 0) & (self.objects[box] == 0)
        self.classes.append(name)
        self.objects[box][free] = len(self.classes)

    def is_free(self, box: Box, inside: np.ndarray) -> bool:
        return not ((self.mitochondria[box] > 0) | (self.objects[box] > 0))[inside].any()

    def random_places(self, count: int, min_border: float) -> np.ndarray:
        """Up to ``count`` random pixels (y, x) at least ``min_border`` pixels from a cell's border."""
        roomy = np.flatnonzero(self.border.ravel() > min_border)
        if not count or not len(roomy):
            return np.zeros((0, 2), int)
        return np.stack(np.unravel_index(self.rng.choice(roomy, count), self.shape), axis=1)


def number(rng: np.random.Generator, expected: float) -> int:
    """A random number of things of which so many are expected."""
    return int(rng.poisson(max(expected, 0.0)))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], size: float, stretch: float = 1.0) -> np.ndarray:
    """(H, W) float32 noise with blobs ``size`` pixels wide, ``stretch`` times as tall; mean 0, deviation 1."""
    step = np.array([max(size * stretch, 1.0), max(size, 1.0)])
    rows, cols = (np.array(shape) / step).astype(int) + 4
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    y, x = 1 + rng.random(2)  # where the first pixel lies on the coarse grid
    matrix = np.array([[1 / step[1], 0, x], [0, 1 / step[0], y]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(coarse, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    mean, deviation = cv2.meanStdDev(noise)
    # Between the points of the coarse grid the noise is weaker.
    return (noise - np.float32(mean[0, 0])) * np.float32(1 / max(deviation[0, 0], 1e-6))


def rotated_noise(
    rng: np.random.Generator, shape: tuple[int, int], size: float, stretch: float, angle: float
) -> np.ndarray:
    """Noise that is stretched along a direction, ``angle`` in degrees."""
    side = int(1.5 * max(shape)) + 2
    noise = smooth_noise(rng, (side, side), size, stretch)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1)
    matrix[0, 2] -= (side - shape[1]) / 2
    matrix[1, 2] -= (side - shape[0]) / 2
    return cv2.warpAffine(noise, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR)


def blend(picture: np.ndarray, value: float | np.ndarray, weight: np.ndarray) -> None:
    """Move the picture toward a gray value, all the way where the weight is 1."""
    picture += weight * (value - picture)


def line_weight(distance: np.ndarray, width: float) -> np.ndarray:
    """1 on a line and falling off with the distance from it, about ``width`` pixels wide."""
    return np.exp(-((2 * distance.clip(-99, 99) / max(width, 0.5)) ** 2))


def cover(depth: np.ndarray) -> np.ndarray:
    """How much of a pixel a body covers, by its depth below the surface."""
    return np.clip(depth + 0.5, 0, 1)


def random_curve(
    rng: np.random.Generator, start: np.ndarray, length: float, steps: int, bend: float, angle: float | None = None
) -> np.ndarray:
    """(steps, 2) points (y, x) of a curve with ``start`` in its middle, that turns by about ``bend`` radians in all."""
    direction = rng.uniform(0, 2 * np.pi) if angle is None else angle
    turns = np.cumsum(rng.normal(0, bend / np.sqrt(steps), steps)) + direction
    stride = length / max(steps - 1, 1)
    points = np.cumsum(stride * np.stack([np.sin(turns), np.cos(turns)], axis=1), axis=0)
    return start + points - points[steps // 2]


def box_around(points: np.ndarray, margin: float, shape: tuple[int, int]) -> Box:
    """The part of the canvas that holds all points (N, 2) and a margin around them; at least one pixel."""
    low = np.clip(np.floor(points.min(0) - margin), 0, np.array(shape) - 1).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin) + 1, low + 1, shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def positions(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Rows (h, 1) and columns (1, w) of the pixels of a box."""
    y, x = (np.arange(axis.start, axis.stop, dtype=np.float32) for axis in box)
    return y[:, None], x[None, :]


def tube(points: np.ndarray, radii: np.ndarray, box: Box) -> np.ndarray:
    """Depth (h, w) below the surface of circles (N, 2) of the given radii (N,)."""
    y, x = positions(box)
    depth = np.full((y.shape[0], x.shape[1]), OUTSIDE)
    for (cy, cx), radius in zip(points.astype(np.float32), radii.astype(np.float32), strict=True):
        np.maximum(depth, radius - np.sqrt((y - cy) ** 2 + (x - cx) ** 2), out=depth)
    return depth


def distance_to_curve(points: np.ndarray, box: Box) -> np.ndarray:
    """Distance (h, w) of each pixel to a polyline (N, 2)."""
    line = np.full((box[0].stop - box[0].start, box[1].stop - box[1].start), 255, np.uint8)
    moved = points[:, ::-1] - (box[1].start, box[0].start)
    cv2.polylines(line, [np.round(moved).astype(np.int32)[:, None]], False, 0, 1)
    return cv2.distanceTransform(line, cv2.DIST_L2, 5)
