"""The blend of window predictions, kept so that a few windows can be replaced without the others.

Shapes: W windows of side w; h x w' pixels of the blended map. A box is (y0, x0, y1, x1) in pixels, half open.
"""

from __future__ import annotations

import math

from prompt_das.inference.interactive.resize import Box
from prompt_das.ops.sliding_window import WindowGrid

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor


class WindowBlend:
    """The map of :func:`prompt_das.ops.sliding_window.sliding_window`, put together window by window in any order.

    Nothing is ever subtracted: a box is blended anew from the predictions of all windows that overlap it, always in the
    same order. So the map depends on the predictions that it holds now and on nothing that was there before, bit by
    bit. A pixel is NaN as long as a window that contains it has no prediction.
    """

    def __init__(self, grid: WindowGrid, device: torch.device | str | None = None) -> None:
        self.grid = grid
        self.map = torch.full(grid.image_size, math.nan, device=device)
        self._weight = grid.weight.to(device)
        self._norm = [grid.norm(axis).to(device) for axis in (0, 1)]
        self._parts: list[Tensor | None] = [None] * len(grid.corners)
        self._click_keys: list[bytes | None] = [None] * len(grid.corners)
        self._stale = np.zeros((len(grid.ys), len(grid.xs)), dtype=bool)

    def click_key(self, index: int) -> bytes | None:
        """Key of the clicks that a window was predicted with; None if it has no prediction."""
        return self._click_keys[index]

    def set_window(self, index: int, click_key: bytes, prediction: Tensor) -> None:
        """Replace the (w, w) prediction of a window; the map follows with :meth:`refresh`."""
        self._parts[index], self._click_keys[index] = prediction, click_key
        self._stale[np.unravel_index(index, self._stale.shape)] = True

    def refresh(self) -> list[Box]:
        """Blend anew where predictions were set, and return the boxes of the map that may have changed."""
        groups, _ = scipy.ndimage.label(self._stale, structure=np.ones((3, 3)))
        boxes = [self._box(rows, columns) for rows, columns in scipy.ndimage.find_objects(groups)]
        for box in boxes:
            self._blend(box)
        self._stale[:] = False
        return boxes

    def known_box(self) -> Box:
        """A box around all windows that have a prediction; empty without any."""
        known = np.array([key is not None for key in self._click_keys]).reshape(self._stale.shape)
        if not known.any():
            return 0, 0, 0, 0
        rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
        return self._box(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))

    def windows_overlapping(self, box: Box) -> list[int]:
        """List the windows that overlap a box of the map, in raster order."""
        y0, x0, y1, x1 = box
        side = self.grid.window
        rows = [i for i, y in enumerate(self.grid.ys) if y < y1 and y + side > y0]
        columns = [i for i, x in enumerate(self.grid.xs) if x < x1 and x + side > x0]
        return [row * len(self.grid.xs) + column for row in rows for column in columns]

    def _box(self, rows: slice, columns: slice) -> Box:
        height, width = self.grid.image_size
        side = self.grid.window
        ys, xs = self.grid.ys[rows], self.grid.xs[columns]
        return ys[0], xs[0], min(ys[-1] + side, height), min(xs[-1] + side, width)

    def _blend(self, box: Box) -> None:
        y0, x0, y1, x1 = box
        side = self.grid.window
        total = self.map[y0:y1, x0:x1].zero_()
        for index in self.windows_overlapping(box):
            y, x = self.grid.corners[index]
            top, left, bottom, right = max(y, y0), max(x, x0), min(y + side, y1), min(x + side, x1)
            there = total[top - y0 : bottom - y0, left - x0 : right - x0]
            part = self._parts[index]
            if part is None:
                there += math.nan
            else:
                inside = (slice(top - y, bottom - y), slice(left - x, right - x))
                there += part[inside] * self._weight[inside]
        total /= self._norm[0][y0:y1, None]
        total /= self._norm[1][x0:x1]
