"""From tissue to a micrograph: blur, noise, contrast, and what goes wrong when a volume is cut and imaged."""

from __future__ import annotations

from collections.abc import Callable

from prompt_das.volumes.synthetic_tissue.canvas import cover, rotated_noise, smooth_noise
from prompt_das.volumes.synthetic_tissue.style import Style

import cv2
import numpy as np

ARTEFACT_PROBABILITY = 0.04  # of each


def take_picture(rng: np.random.Generator, tissue: np.ndarray, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """Gray values (H, W) float32 -> the micrograph (H, W) uint8, and where it shows nothing, (H, W) bool."""
    picture = tissue.clip(0, 1.2)
    if style.blur > 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), style.blur)
    for artefact in ARTEFACTS:
        if rng.random() < ARTEFACT_PROBABILITY:
            picture = artefact(rng, picture.astype(np.float32))
    missing = np.zeros(picture.shape, bool)
    if rng.random() < ARTEFACT_PROBABILITY:
        missing = _missing_part(rng, picture.shape)
        picture[missing] = rng.choice([0.0, 1.0])
    shape = (picture.shape[0], picture.shape[1])
    noise = style.noise * rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.3:  # noise of a picture that was resampled
        noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.4, 0.9)) * 1.6
    if style.shot_noise:
        noise += style.shot_noise * np.sqrt(picture.clip(0)) * rng.standard_normal(shape, dtype=np.float32)
    if style.line_noise:
        noise += style.line_noise * rng.standard_normal((shape[0], 1), dtype=np.float32)
    picture = picture.clip(0, 1.2) ** style.gamma + noise
    picture = (picture - picture.mean()) / max(float(picture.std()), 1e-3)
    if style.inverted:
        picture = -picture
    picture = (style.mean + style.contrast * picture).clip(0, 255).astype(np.uint8)
    return (_compress(rng, picture) if rng.random() < 0.15 else picture), missing


def _compress(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def _shade(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Uneven staining or illumination."""
    return picture + rng.uniform(0.03, 0.15) * smooth_noise(rng, picture.shape, 0.7 * max(picture.shape))


def _charge(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Bright streaks along the scan, beside what does not conduct."""
    bright = np.maximum(smooth_noise(rng, picture.shape, 12) - 1.2, 0)
    kernel = np.exp(-np.arange(30) / 12.0, dtype=np.float32)[None]
    return picture + rng.uniform(0.05, 0.3) * cv2.filter2D(bright, -1, kernel / kernel.sum())


def _curtain(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Stripes of an ion beam."""
    stripes = rotated_noise(rng, picture.shape, rng.uniform(1.5, 5), 60, rng.uniform(0, 180))
    return picture + rng.uniform(0.02, 0.08) * stripes


def _knife_mark(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A scratch across the section."""
    distance = _distance_to_line(rng, picture.shape)
    return picture + rng.choice([-1, 1]) * rng.uniform(0.1, 0.5) * np.exp(-((distance / rng.uniform(0.5, 2)) ** 2))


def _fold(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A dark band where the section lies double."""
    distance = np.abs(_distance_to_line(rng, picture.shape) + 3 * smooth_noise(rng, picture.shape, 30))
    return picture - rng.uniform(0.15, 0.5) * cover((rng.uniform(3, 14) - distance) / 2)


def _missing_part(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The part (H, W) of a picture that is lost: a stripe, or all from a row on."""
    row = int(rng.integers(shape[0]))
    part = slice(row, None) if rng.random() < 0.5 else slice(None, row)
    if rng.random() < 0.5:
        part = slice(row, row + int(rng.integers(2, 20)))
    missing = np.zeros(shape, bool)
    missing[part] = True
    return missing


def _dirt(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Precipitates of the stain: black specks."""
    for _ in range(rng.integers(1, 12)):
        center = [int(v) for v in rng.integers(0, picture.shape[::-1])]
        cv2.circle(picture, center, int(rng.integers(1, 4)), float(rng.uniform(0, 0.15)), -1)
    return picture


def _defocus(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 1.8))


def _sharpen(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    return picture + rng.uniform(0.3, 1.2) * (picture - cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 2)))


def _equalize(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Local contrast (CLAHE), which many volumes were processed with."""
    limited = cv2.createCLAHE(rng.uniform(1, 4), (4, 4))
    return limited.apply((255 * picture.clip(0, 1)).astype(np.uint8)).astype(np.float32) / 255


def _distance_to_line(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Signed distance (H, W) of each pixel to a random line across the picture."""
    angle, (y, x) = rng.uniform(0, np.pi), rng.uniform(0, shape[:2])
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return ((rows - y) * np.cos(angle) - (cols - x) * np.sin(angle)).astype(np.float32)


ARTEFACTS: tuple[Callable[[np.random.Generator, np.ndarray], np.ndarray], ...] = (
    _shade, _charge, _curtain, _knife_mark, _fold, _dirt, _defocus, _sharpen, _equalize,
)  # fmt: skip
