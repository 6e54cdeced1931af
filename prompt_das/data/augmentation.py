"""Strong augmentation of the student's view: image, mask and points move together (Prompt-DAS, Sec. 3.3).

The transforms are fvcore's, so ``apply_image``, ``apply_segmentation`` and ``apply_coords`` do what Detectron2 users
expect: images are (H, W) or (H, W, C) with intensities from 0 to 255, masks (H, W) integers, points (N, 2) as (x, y)
in pixels with the center of the first pixel at (0.5, 0.5). Points may leave the image under ``Elastic``.
A transform is deterministic; all randomness comes from the generator given to ``StrongAugmentation``.
"""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.config import CfgNode, configurable
from fvcore.transforms.transform import NoOpTransform, Transform, TransformList


class RightAngle(Transform):
    """One of the eight symmetries of the pixel grid: k counter-clockwise quarter turns, then perhaps a flip.

    Args:
        k: quarter turns, 0 to 3, as in ``np.rot90``.
        flip: left and right are exchanged after the turns.
        height, width: size of the image before.
    """

    def __init__(self, k: int, flip: bool, height: int, width: int) -> None:
        super().__init__()
        self.k, self.flip, self.height, self.width = k % 4, flip, height, width

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) after."""
        return (self.width, self.height) if self.k % 2 else (self.height, self.width)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img = np.rot90(img, self.k)
        return np.ascontiguousarray(img[:, ::-1] if self.flip else img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        x, y = coords[:, 0], coords[:, 1]
        turned = ((x, y), (y, self.width - x), (self.width - x, self.height - y), (self.height - y, x))
        x, y = turned[self.k]
        return np.stack([self.output_size[1] - x if self.flip else x, y], axis=1)

    def inverse(self) -> RightAngle:
        # A turn followed by a flip is a reflection, which is its own inverse.
        return RightAngle(self.k if self.flip else -self.k, self.flip, *self.output_size)


class Elastic(Transform):
    """A smooth displacement: a uniform cubic B-spline over a coarse grid of control points.

    The value at output position p is the input's at p + u(p). The spline can be evaluated anywhere, so points need no
    displacement image. |u| is at most the largest control value a and its slope at most 2a / spacing in each
    direction, so with a ≤ spacing / 8 the fixed-point iteration that maps points contracts by at least one half.

    Args:
        control: (2, m, n) displacement (x, y) in pixels of the control points, (m, n) = ``Elastic.grid_size(...)``.
        spacing: distance of the control points in pixels.
        height, width: size of the image.
    """

    def __init__(self, control: np.ndarray, spacing: float, height: int, width: int) -> None:
        super().__init__()
        if np.abs(control).max() > spacing / 8:
            raise ValueError(
                f"elastic displacement of {np.abs(control).max():g} px over a spacing of {spacing:g} px folds the "
                "image; at most an eighth of the spacing is allowed"
            )
        self.control, self.spacing, self.height, self.width = control, spacing, height, width

    @staticmethod
    def grid_size(spacing: float, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of control points that cover an image."""
        return int(height // spacing) + 4, int(width // spacing) + 4

    def _weights(self, position: np.ndarray, length: int, count: int) -> np.ndarray:
        """Weight (P, count) of every control point along one axis, at the positions (P,) in pixels."""
        knot = np.clip(position, 0, length)[:, None] / self.spacing + 1 - np.arange(count)
        distance = np.abs(knot)
        inner = 2 / 3 - distance**2 + distance**3 / 2
        outer = np.clip(2 - distance, 0, None) ** 3 / 6
        return np.where(distance < 1, inner, outer)

    def _displacement(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) displacement u, in pixels, at positions (N, 2)."""
        across = self._weights(coords[:, 0], self.width, self.control.shape[2])
        down = self._weights(coords[:, 1], self.height, self.control.shape[1])
        return np.einsum("cpn,pn->pc", down @ self.control, across)

    def _sources(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel index, fractional, that every output pixel reads: columns and rows, each (H, W) float32."""
        cols, rows = np.arange(self.width), np.arange(self.height)
        across = self._weights(cols + 0.5, self.width, self.control.shape[2])
        down = self._weights(rows + 0.5, self.height, self.control.shape[1])
        dx, dy = down @ self.control @ across.T
        return (cols + dx).astype(np.float32), (rows[:, None] + dy).astype(np.float32)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        cols, rows = self._sources()
        return cv2.remap(img, cols, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        cols, rows = self._sources()
        cols = np.rint(cols).astype(np.int64).clip(0, self.width - 1)
        rows = np.rint(rows).astype(np.int64).clip(0, self.height - 1)
        return segmentation[rows, cols]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        target = np.asarray(coords, dtype=np.float64)
        moved = target.copy()
        for _ in range(30):  # every round at least halves the error: 30 are exact in float32, and mostly fewer
            before, moved = moved, target - self._displacement(moved)
            if np.allclose(moved, before, rtol=0, atol=1e-7):
                break
        return moved.astype(coords.dtype)


class _Photometric(Transform):
    """Changes intensities only."""

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        return NoOpTransform()


class GaussianNoise(_Photometric):
    """Adds independent Gaussian noise; the result stays within 0 to 255.

    Args:
        std: standard deviation in intensities (0 to 255).
        seed: of the noise, so that the transform is deterministic.
    """

    def __init__(self, std: float, seed: int) -> None:
        super().__init__()
        self.std, self.seed = std, seed

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(self.seed).standard_normal(img.shape, dtype=np.float32)
        return np.clip(img + np.float32(self.std) * noise, 0, 255).astype(np.float32)


class BrightnessContrast(_Photometric):
    """Scales the brightness, and the contrast about the mean; the result stays within 0 to 255.

    Args:
        brightness, contrast: factors; 1 changes nothing.
    """

    def __init__(self, brightness: float, contrast: float) -> None:
        super().__init__()
        self.brightness, self.contrast = brightness, contrast

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        mean = img.mean(dtype=np.float64)
        img = (img - mean) * (self.contrast * self.brightness) + mean * self.brightness
        return np.clip(img, 0, 255).astype(np.float32)


class GaussianBlur(_Photometric):
    """Blur an image, as a microscope of lower resolution does.

    Args:
        sigma: standard deviation in pixels.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(img, (0, 0), self.sigma, borderType=cv2.BORDER_REFLECT)


class StrongAugmentation:
    """Draws the transforms of one image.

    Args:
        right_angles: draw one of the eight flips and quarter turns, all equally likely.
        noise_probability, noise_std: probability of Gaussian noise, and its largest standard deviation (of 0 to 255).
        contrast_probability, contrast_range: probability of a change of brightness and contrast, and the range of both
            factors.
        blur_probability, blur_sigma: probability of a blur, and its largest standard deviation in pixels.
        elastic_probability, elastic_amplitude, elastic_spacing: probability of an elastic displacement, its largest
            size and the distance of its control points in pixels.
    """

    @configurable
    def __init__(
        self,
        *,
        right_angles: bool = True,
        noise_probability: float = 0.3,
        noise_std: float = 15.0,
        contrast_probability: float = 0.5,
        contrast_range: tuple[float, float] = (0.7, 1.3),
        blur_probability: float = 0.0,
        blur_sigma: float = 2.0,
        elastic_probability: float = 0.0,
        elastic_amplitude: float = 6.0,
        elastic_spacing: float = 64.0,
    ) -> None:
        self.right_angles = right_angles
        self.noise_probability, self.noise_std = noise_probability, noise_std
        self.contrast_probability, self.contrast_range = contrast_probability, contrast_range
        self.blur_probability, self.blur_sigma = blur_probability, blur_sigma
        self.elastic_probability = elastic_probability
        self.elastic_amplitude, self.elastic_spacing = elastic_amplitude, elastic_spacing

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.INPUT.AUGMENTATION
        return {
            "right_angles": node.RIGHT_ANGLES,
            "noise_probability": node.NOISE_PROBABILITY,
            "noise_std": node.NOISE_STD,
            "contrast_probability": node.CONTRAST_PROBABILITY,
            "contrast_range": tuple(node.CONTRAST_RANGE),
            "blur_probability": node.BLUR_PROBABILITY,
            "blur_sigma": node.BLUR_SIGMA,
            "elastic_probability": node.ELASTIC_PROBABILITY,
            "elastic_amplitude": node.ELASTIC_AMPLITUDE,
            "elastic_spacing": node.ELASTIC_SPACING,
        }

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> tuple[TransformList, TransformList]:
        """Draw the transforms for an image of the given size.

        Returns:
            geometric and photometric transforms; the geometric ones go first.
        """
        geometric: list[Transform] = []
        photometric: list[Transform] = []
        if self.right_angles:
            turn = RightAngle(int(rng.integers(4)), bool(rng.integers(2)), height, width)
            geometric.append(turn)
            height, width = turn.output_size
        if rng.random() < self.elastic_probability:
            grid = Elastic.grid_size(self.elastic_spacing, height, width)
            control = rng.uniform(-self.elastic_amplitude, self.elastic_amplitude, (2, *grid))
            geometric.append(Elastic(control, self.elastic_spacing, height, width))
        if rng.random() < self.contrast_probability:
            photometric.append(BrightnessContrast(*rng.uniform(*self.contrast_range, 2)))
        if rng.random() < self.blur_probability:
            photometric.append(GaussianBlur(rng.uniform(0.1, 1) * self.blur_sigma))
        if rng.random() < self.noise_probability:
            photometric.append(GaussianNoise(rng.uniform(0, self.noise_std), int(rng.integers(2**31))))
        return TransformList(geometric), TransformList(photometric)
