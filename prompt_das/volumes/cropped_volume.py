"""A box of every slice of a volume, as a volume: what lies outside is not read."""

from __future__ import annotations

from collections.abc import Sequence

from prompt_das.volumes.volume import Box, Volume

import numpy as np


class CroppedVolume(Volume):
    """A view of a volume whose slices are boxes (y0, x0, y1, x1) of its own; they keep their numbers.

    Raises ValueError for a box that is not inside the slices.
    """

    def __init__(self, whole: Volume, box: Box):
        super().__init__(whole.path, whole.dataset)
        y0, x0, y1, x1 = box
        depth, height, width = whole.shape
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise ValueError(f"{whole.path}: box (y0, x0, y1, x1) = {box} is not inside the slice ({height} x {width})")
        self.shape = (depth, y1 - y0, x1 - x0)
        self.dtype, self.slice_names, self.min_is_white = whole.dtype, whole.slice_names, whole.min_is_white
        self._whole, self._origin = whole, (y0, x0)

    def name_of(self, z: int) -> str:
        return self._whole.name_of(z)

    def documents(self) -> dict[str, str]:
        return self._whole.documents()

    def _stored_voxel_size(self) -> Sequence[float] | None:
        return self._whole.voxel_size

    def _open(self) -> Volume:
        return self._whole

    def _read(self, z: int, box: Box) -> np.ndarray:
        y, x = self._origin
        return self._whole.read(z, (box[0] + y, box[1] + x, box[2] + y, box[3] + x))
