"""Pictures of slices: contours of masks, points and density maps drawn in.

Pictures are uint8 (h, w, 3) RGB. Instances are outlined rather than filled, so that the tissue stays visible; the
colors are those of Okabe and Ito, which people with any color vision can tell apart. Functions that draw take gray
slices (H, W) with values from 0 to 255 as well as pictures, so they can be applied one after the other:

    picture = draw_overlay(image, truth, color=TRUTH)
    picture = draw_overlay(picture, prediction, prompts, color=PREDICTION)
    save_image("slice.png", tile([image, picture], ["image", "truth, prediction"]))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

Color = tuple[int, int, int]

TRUTH: Color = (86, 180, 233)  # sky blue
PREDICTION: Color = (230, 159, 0)  # orange
PROMPT: Color = (240, 228, 66)  # yellow
NEGATIVE_PROMPT: Color = (213, 94, 0)  # vermilion, and a cross
ESTIMATE: Color = (204, 121, 167)  # reddish purple: points that a network found

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_HEIGHT = 13  # pixels
_MARGIN = 6


def to_rgb(image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """A gray slice (H, W) or a picture (H, W, 3), values 0 to 255, as a picture of round(scale · size) pixels."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image has shape {image.shape}; expected (H, W), or (H, W, 3) for RGB")
    picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if scale != 1.0:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        picture = cv2.resize(picture, _scaled(picture, scale), interpolation=interpolation)
    return np.ascontiguousarray(picture)


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    points: np.ndarray | None = None,
    *,
    color: Color = PREDICTION,
    point_color: Color = PROMPT,
    marker: str = "disk",
    scale: float = 1.0,
) -> np.ndarray:
    """Draw the outlines of a mask or label map, and points, into an image.

    Args:
        image: (H, W) gray or (H, W, 3) RGB, values 0 to 255.
        mask: (H, W) bool or integer ids; touching instances of different ids are outlined each.
        points: (N, 2) as (x, y) in pixels of ``image``, the center of the first pixel at (0.5, 0.5); or clicks (N, 3),
            of which those with label 0 are crosses in ``NEGATIVE_PROMPT``.
        color, point_color: RGB of the outlines and of the points.
        marker: "disk" or "cross", so that two sorts of points differ in more than their color.
        scale: of the picture; lines and points keep a width that can be seen.

    Returns:
        uint8 (round(scale · H), round(scale · W), 3).
    """
    if marker not in ("disk", "cross"):
        raise ValueError(f'marker is {marker!r}; it can be "disk" or "cross"')
    picture = to_rgb(image, scale)
    longest = max(picture.shape[:2])
    if mask is not None:
        if mask.shape != image.shape[:2]:
            raise ValueError(f"the mask has shape {mask.shape}, the image {image.shape[:2]}; they must agree")
        picture[_outlines(resize_labels(mask, picture.shape[:2]), width=max(1, round(longest / 450)))] = color
    if points is not None:
        radius = max(3, round(longest / 170))
        points = np.asarray(points, dtype=np.float64)
        for x, y, *label in points.reshape(-1, points.shape[-1]):
            style = (NEGATIVE_PROMPT, "cross") if label == [0] else (point_color, marker)
            _draw_marker(picture, x * scale, y * scale, radius, *style)
    return picture


def draw_density(density: np.ndarray, image: np.ndarray | None = None, *, scale: float = 1.0) -> np.ndarray:
    """A density map (H, W) with values from 0 to 1 in color, or laid over an image where it is high."""
    values = to_rgb(np.clip(density, 0, 1) * 255, scale)[..., 0]
    colors = cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    if image is None:
        return colors
    opacity = 0.8 * values[..., None] / 255.0
    return to_rgb(to_rgb(image, scale) * (1 - opacity) + colors * opacity)


def tile(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    legend: Mapping[str, Color] | None = None,
) -> np.ndarray:
    """Arrange images on white, with a title above each and a legend below all.

    Args:
        images: gray slices or pictures; sizes may differ.
        titles: one for each image; long ones are shrunk to the width of their image.
        columns: images in a row, by default all.
        legend: colors by what they mean.
    """
    if not images:
        raise ValueError("tile needs at least one image")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; give one title for each image, or none")
    pictures = [to_rgb(image) for image in images]
    columns = min(columns or len(pictures), len(pictures))
    height, width = (max(p.shape[axis] for p in pictures) for axis in (0, 1))
    top = _TEXT_HEIGHT + 2 * _MARGIN if titles is not None else 0
    rows = math.ceil(len(pictures) / columns)
    bottom = _TEXT_HEIGHT + 2 * _MARGIN if legend else 0
    step_y, step_x = height + top + _MARGIN, width + _MARGIN
    canvas = np.full((rows * step_y + _MARGIN + bottom, columns * step_x + _MARGIN, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = _MARGIN + (i // columns) * step_y, _MARGIN + (i % columns) * step_x
        if titles is not None:
            _put_text(canvas, titles[i], x, y + _MARGIN + _TEXT_HEIGHT, width)
        canvas[y + top : y + top + picture.shape[0], x : x + picture.shape[1]] = picture
    if legend:
        _draw_legend(canvas, legend)
    return canvas


def save_image(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture; the ending of the name says the format. Folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(to_rgb(picture), cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path}: the picture could not be written")


def _scaled(picture: np.ndarray, scale: float) -> tuple[int, int]:
    """(width, height) after scaling, in OpenCV's order."""
    return max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map (H, W) with ids of any type at another (height, width): each pixel has the id at its center."""
    rows, cols = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, labels.shape, strict=True))
    return labels[rows.astype(int)[:, None], cols.astype(int)]


def _outlines(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels of instances within ``width`` pixels of something else; the border of the image is not an outline."""
    padded = np.pad(labels, width, mode="edge")
    height, length = labels.shape
    edge = np.zeros(labels.shape, dtype=bool)
    for d in range(1, width + 1):
        for y, x in ((d, 0), (-d, 0), (0, d), (0, -d)):
            edge |= padded[width + y : width + y + height, width + x : width + x + length] != labels
    return edge & (labels != 0)


def _draw_marker(picture: np.ndarray, x: float, y: float, radius: int, color: Color, marker: str) -> None:
    """Colored with a dark rim, to be seen on any gray."""
    bits = 4  # OpenCV's fixed point; its pixel centers are integers
    rim = max(1, radius // 3)
    column, row, r = (round(value * 2**bits) for value in (x - 0.5, y - 0.5, radius))
    if marker == "disk":
        cv2.circle(picture, (column, row), r + (rim << bits), (0, 0, 0), cv2.FILLED, cv2.LINE_AA, bits)
        cv2.circle(picture, (column, row), r, color, cv2.FILLED, cv2.LINE_AA, bits)
        return
    line = max(2, radius // 2)
    for thickness, ink, arm in ((line + 2 * rim, (0, 0, 0), r + (rim << bits)), (line, color, r)):
        cv2.line(picture, (column - arm, row - arm), (column + arm, row + arm), ink, thickness, cv2.LINE_AA, bits)
        cv2.line(picture, (column - arm, row + arm), (column + arm, row - arm), ink, thickness, cv2.LINE_AA, bits)


def _put_text(picture: np.ndarray, text: str, x: int, baseline: int, width: int) -> None:
    size = cv2.getFontScaleFromHeight(_FONT, _TEXT_HEIGHT)
    (length, _), _ = cv2.getTextSize(text, _FONT, size, 1)
    cv2.putText(picture, text, (x, baseline), _FONT, size * min(1.0, width / max(1, length)), (0, 0, 0), 1, cv2.LINE_AA)


def _draw_legend(canvas: np.ndarray, legend: Mapping[str, Color]) -> None:
    baseline = canvas.shape[0] - 2 * _MARGIN
    step = (canvas.shape[1] - 2 * _MARGIN) // len(legend)
    for i, (text, color) in enumerate(legend.items()):
        x = 2 * _MARGIN + i * step
        cv2.rectangle(canvas, (x, baseline - _TEXT_HEIGHT), (x + _TEXT_HEIGHT, baseline), color, cv2.FILLED)
        cv2.rectangle(canvas, (x, baseline - _TEXT_HEIGHT), (x + _TEXT_HEIGHT, baseline), (0, 0, 0), 1)
        _put_text(canvas, text, x + _TEXT_HEIGHT + _MARGIN, baseline, step - _TEXT_HEIGHT - 3 * _MARGIN)
