"""Bilinear resizing of a part of a map, so that where little changes little is computed.

A box is (y0, x0, y1, x1) in pixels, half open.
"""

from __future__ import annotations

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


class BilinearResize:
    """What ``F.interpolate(map, size, mode="bilinear", align_corners=False)`` gives, box by box.

    A pixel of the result has the same bits whatever box it was computed in: only single products and sums of float32
    numbers are taken, and the weights belong to the pixel.
    """

    def __init__(
        self, in_size: tuple[int, int], out_size: tuple[int, int], device: torch.device | str | None = None
    ) -> None:
        self.in_size, self.out_size = in_size, out_size
        self._axes = [_Axis(n_in, n_out) for n_in, n_out in zip(in_size, out_size, strict=True)]
        self._on_device = [[x.to(device) for x in (a.first, a.second, a.weight)] for a in self._axes]

    def affected(self, box: Box) -> Box:
        """The box of result pixels that any pixel of an input box takes part in; it may be empty."""
        (y0, y1), (x0, x1) = (axis.affected(box[i], box[i + 2]) for i, axis in enumerate(self._axes))
        return y0, x0, y1, x1

    def needed(self, box: Box) -> Box:
        """The box of input pixels that take part in a box of the result, which must not be empty."""
        (y0, y1), (x0, x1) = (axis.needed(box[i], box[i + 2]) for i, axis in enumerate(self._axes))
        return y0, x0, y1, x1

    def __call__(self, values: Tensor, box: Box) -> Tensor:
        """The box of the resized map: ``values`` float32 of ``in_size`` -> (y1 - y0, x1 - x0)."""
        y0, x0, y1, x1 = box
        if self.in_size == self.out_size:
            return values[y0:y1, x0:x1]
        (top, bottom, down), (left, right, across) = self._on_device
        _, first, _, last = self.needed(box)
        values = values[:, first:last]
        down = down[y0:y1, None]
        rows = values[top[y0:y1]] * (1 - down) + values[bottom[y0:y1]] * down
        across = across[x0:x1]
        return rows[:, left[x0:x1] - first] * (1 - across) + rows[:, right[x0:x1] - first] * across


class _Axis:
    """Along one axis: every result pixel lies between the input pixels ``first`` and ``second``."""

    def __init__(self, n_in: int, n_out: int) -> None:
        # In float32 and in this order, as torch does: at 4096 px the rounding of positions is seen in the fifth digit.
        ratio = torch.tensor(n_in, dtype=torch.float32) / n_out
        position = (ratio * (torch.arange(n_out, dtype=torch.float32) + 0.5) - 0.5).clamp(min=0)
        self.first = position.long().clamp(max=n_in - 1)
        self.weight = (position - self.first).clamp(0, 1)
        # One that lies on a pixel does not depend on the next.
        self.second = (self.first + (self.weight > 0)).clamp(max=n_in - 1)

    def affected(self, start: int, stop: int) -> tuple[int, int]:
        return int(torch.searchsorted(self.second, start)), int(torch.searchsorted(self.first, stop))

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        return int(self.first[start]), int(self.second[stop - 1]) + 1
