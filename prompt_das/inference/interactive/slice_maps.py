"""One slice at the resolution of the network, with what was predicted of it so far.

Shapes: H, W height and width of the slice; h, w' the same at the resolution of the network; w side of a window.
A point is (x, y) in pixels, the center of the first pixel is (0.5, 0.5). A box is (y0, x0, y1, x1) in pixels of the
slice, half open.
"""

from __future__ import annotations

import math
from typing import Any

from prompt_das.inference.interactive.blend import WindowBlend
from prompt_das.inference.interactive.resize import BilinearResize, Box
from prompt_das.ops.mask_rules import MaskRules
from prompt_das.ops.sliding_window import WindowGrid, pad_by_reflection, points_of_windows

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MASK, AUTOMATIC, CENTERS = "mask", "automatic mask", "centers"  # what is predicted of a window; automatic: no clicks


class SliceMaps:
    """The pixels, windows and blended maps of a slice, and the conversion between its pixels and the network's.

    Attributes:
        key: the same for equal slices, and only for them.
        size: (H, W).
        probability: (H, W) float32 of the mask, NaN where unknown; read-only, replaced by :meth:`update`.
        rules: what follows the network.
    """

    def __init__(
        self,
        key: bytes,
        size: tuple[int, int],
        image: np.ndarray,
        window: dict[str, Any],
        device: torch.device,
        rules: MaskRules,
    ) -> None:
        """
        Args:
            image: (h, w') float32 gray values, at the resolution of the network.
            window: "window", "stride" and "blend" of the sliding window.
        """
        height, width = image.shape
        grid = WindowGrid((height, width), window=window["window"], stride=window["stride"], blend=window["blend"])
        self.key = key
        self.size = size
        self.rules = rules
        self.probability = np.full(size, math.nan, np.float32)
        self.probability.flags.writeable = False
        self._predicted = self._automatic = self.probability
        self._grid = grid
        self._blends: dict[str, WindowBlend] = {}
        self._device = device
        self._image = pad_by_reflection(torch.from_numpy(image)[None], grid.window).to(device)
        self._resize = BilinearResize((height, width), size, device)
        # Network pixels per slice pixel, for x, y, label.
        self._scale = torch.tensor([width / size[1], height / size[0], 1])
        border = torch.nextafter(torch.tensor([width, height], dtype=torch.float32), torch.zeros(2))
        self._last_click = F.pad(border, (0, 1), value=1)

    @property
    def num_windows(self) -> int:
        return len(self._grid.corners)

    def blend(self, kind: str) -> WindowBlend:
        """The predictions of the windows, ``MASK``, ``AUTOMATIC`` or ``CENTERS``, at the network's resolution."""
        if kind not in self._blends:
            self._blends[kind] = WindowBlend(self._grid, self._device)
        return self._blends[kind]

    def window(self, index: int) -> Tensor:
        """(1, w, w) gray values."""
        (y, x), side = self._grid.corners[index], self._grid.window
        return self._image[:, y : y + side, x : x + side]

    def clicks_per_window(self, clicks: np.ndarray) -> list[np.ndarray]:
        """(N, 3) clicks on the slice -> for each window the (N', 3) in it, in its pixels, in one order for each set."""
        clicks = clicks[np.lexsort(clicks.T)]
        # Rounding may move a point at the very border of the slice out of the image.
        scaled = torch.minimum(torch.from_numpy(clicks) * self._scale, self._last_click)
        local, inside = points_of_windows(scaled[None], None, self._grid)
        return [p[i] for p, i in zip(local[:, 0].numpy(), inside[:, 0].numpy(), strict=True)]

    def windows_of(self, region: Box) -> list[int]:
        """The windows that a box of the slice needs, from its middle outwards; none for a box outside."""
        y0, x0, y1, x1 = region
        height, width = self.size
        y0, x0, y1, x1 = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
        if y0 >= y1 or x0 >= x1:
            return []
        y0, x0, y1, x1 = self._resize.needed((y0, x0, y1, x1))

        def distance(index: int) -> float:
            y, x = self._grid.corners[index]
            half = self._grid.window / 2
            return math.hypot(y + half - (y0 + y1) / 2, x + half - (x0 + x1) / 2)

        return sorted(self.blend(MASK).windows_overlapping((y0, x0, y1, x1)), key=distance)

    def update(self, clicks: np.ndarray) -> Box | None:
        """Bring ``probability`` up to date with the blends; a box that holds all that changed, None if nothing.

        ``clicks``: (N, 3) in pixels of the slice, those of the newest predictions.
        """
        self._predicted, changed = self._resized(MASK, self._predicted)
        if not self.rules:
            self.probability = self._predicted
            return changed
        if self.rules.needs_automatic(clicks):
            self._automatic, _ = self._resized(AUTOMATIC, self._automatic)
        # Of a large slice often only a part is known, and there are no objects elsewhere.
        y0, x0, y1, x1 = box = self._resize.affected(self.blend(MASK).known_box())
        part = slice(y0, y1), slice(x0, x1)
        after = self.rules(self._predicted[part], self._automatic[part], clicks_in(box, clicks))
        changed = box_of_changes(self.probability[part], after)
        if changed is None:
            return None
        probability = self.probability.copy()
        probability[part] = after
        probability.flags.writeable = False
        self.probability = probability
        return changed[0] + y0, changed[1] + x0, changed[2] + y0, changed[3] + x0

    def _resized(self, kind: str, resized: np.ndarray) -> tuple[np.ndarray, Box | None]:
        """Resize what changed of a blended map: the (H, W) map before -> the new one, and a box around the change."""
        boxes = [self._resize.affected(box) for box in self.blend(kind).refresh()]
        boxes = [(y0, x0, y1, x1) for y0, x0, y1, x1 in boxes if y0 < y1 and x0 < x1]
        if not boxes:
            return resized, None
        resized = resized.copy()
        for box in boxes:
            y0, x0, y1, x1 = box
            resized[y0:y1, x0:x1] = self._resize(self.blend(kind).map, box).cpu().numpy()
        resized.flags.writeable = False
        starts, stops = np.array(boxes)[:, :2].min(0).tolist(), np.array(boxes)[:, 2:].max(0).tolist()
        return resized, (starts[0], starts[1], stops[0], stops[1])

    def density(self, margin: int) -> tuple[Tensor, Tensor]:
        """Copy the part of the centers' map that is known, and ``margin`` pixels around it.

        Returns:
            density, NaN where it is unknown, in pixels of the network; and the (x, y) where it begins.
        """
        blend = self.blend(CENTERS)
        blend.refresh()
        known = ~blend.map.isnan()
        y, x = (
            slice(max(int(at.min()) - margin, 0), int(at.max()) + 1 + margin) if len(at) else slice(0, 1)
            for at in (known.any(1).nonzero(), known.any(0).nonzero())
        )
        return blend.map[y, x].clone(), torch.tensor([x.start, y.start], device=blend.map.device)

    def centers_map(self) -> np.ndarray:
        """(H, W) float32 density of center points at the resolution of the slice, NaN where it is not known."""
        blend = self.blend(CENTERS)
        blend.refresh()
        height, width = self.size
        resized = self._resize(blend.map, (0, 0, height, width)).cpu().numpy().copy()
        resized.flags.writeable = False
        return resized

    def to_slice(self, points: Tensor) -> Tensor:
        """(N, 2) in pixels of the network -> of the slice."""
        return points / self._scale[:2].to(points.device)


def clicks_in(box: Box, clicks: np.ndarray) -> np.ndarray:
    """Those of the clicks (N, 3) that lie in a box, in its pixels."""
    y0, x0, y1, x1 = box
    x, y = clicks[:, 0], clicks[:, 1]
    return clicks[(x >= x0) & (x < x1) & (y >= y0) & (y < y1)] - np.array([x0, y0, 0], np.float32)


def box_of_changes(before: np.ndarray, after: np.ndarray) -> Box | None:
    """The smallest box around the pixels whose bits differ in two (H, W) float32 maps; None without any."""
    differs = before.view(np.uint32) != after.view(np.uint32)
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    return (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else None
