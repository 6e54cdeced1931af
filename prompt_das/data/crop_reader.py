"""Square crops of a slice at the scale of the network: where they lie, their pixels, their points."""

from __future__ import annotations

import math

from prompt_das.data.physical_scale import NetworkScale
from prompt_das.data.samples import DatasetDict
from prompt_das.data.slices import read_image
from prompt_das.volumes.resize import resize_mask
from prompt_das.volumes.volume import Box

import numpy as np
from detectron2.config import CfgNode


class CropReader:
    """Random square crops of one slice, of ``size`` network pixels at ``scale`` network pixels per image pixel.

    With ``pixel_size`` (INPUT.PIXEL_SIZE, nm) the scale depends on the volume, see :meth:`for_slice`.
    """

    def __init__(self, size: int, scale: float, pixel_size: float = 0.0) -> None:
        self.size = size
        self.side = math.ceil(size / scale)  # in image pixels
        self.scale = scale
        self.network_scale = NetworkScale(scale, pixel_size)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CropReader:
        return cls(cfg.INPUT.CROP_SIZE, cfg.INPUT.SCALE, cfg.INPUT.PIXEL_SIZE)

    def for_slice(self, dataset_dict: DatasetDict) -> CropReader:
        """A reader of crops of this slice, at the scale of its volume. Raises ValueError if that is not known."""
        if not self.network_scale.needs_voxel_size:
            return self
        return CropReader(self.size, self.network_scale.of_slice(dataset_dict))

    def box(self, dataset_dict: DatasetDict, rng: np.random.Generator, around: np.ndarray | None = None) -> Box:
        """(y0, x0, y1, x1) inside the slice, which may be smaller than a crop; ``around``: a point (x, y) it holds."""
        start, stop = [], []
        for axis, length in enumerate((dataset_dict["height"], dataset_dict["width"])):
            side = min(self.side, length)
            low, high = 0, length - side
            if around is not None:
                at = min(int(around[1 - axis]), length - 1)  # a point may lie on the right border
                low, high = max(low, at - side + 1), min(high, at)
            start.append(int(rng.integers(low, high + 1)))
            stop.append(start[-1] + side)
        return start[0], start[1], stop[0], stop[1]

    def read_image(self, dataset_dict: DatasetDict, box: Box) -> np.ndarray:
        """The image of a box at the network's scale: (size, size) float32 in 0..255, reflected beyond the slice."""
        crop = read_image(dataset_dict, box, self.scale)[: self.size, : self.size]
        return np.pad(crop, self._padding(crop), mode="symmetric")

    def fit_mask(self, labels: np.ndarray) -> np.ndarray:
        """The mask of the labels (h, w) of a box at the network's scale: (size, size) uint8, 0 beyond the slice."""
        crop = resize_mask(labels > 0, self.scale)[: self.size, : self.size]
        return np.pad(crop, self._padding(crop))

    def _padding(self, crop: np.ndarray) -> list[tuple[int, int]]:
        return [(0, self.size - side) for side in crop.shape]

    def points(self, points: np.ndarray, box: Box) -> np.ndarray:
        """(N, 2) slice pixels -> those inside the crop, in network pixels."""
        y0, x0, _, _ = box
        moved = (points - np.array([x0, y0], np.float32)) * self.scale
        inside = ((moved >= 0) & (moved < self.size)).all(axis=1)
        return moved[inside].astype(np.float32)
