"""A region of a volume: a box of voxels, half open, as it is written on a command line and as it is used."""

from __future__ import annotations

import re
from typing import NamedTuple

Span = tuple[int, int]  # [start, stop)
_AXES = "zyx"
_PART = re.compile(r"\s*(\d{0,18})\s*:\s*(\d{0,18})\s*")


class Region(NamedTuple):
    """[start, stop) along each axis of a volume, in voxels."""

    z: Span
    y: Span
    x: Span

    def __str__(self) -> str:
        return ",".join(f"{start}:{stop}" for start, stop in self)

    @classmethod
    def parse(cls, text: str, shape: tuple[int, int, int], name: str) -> Region:
        """Read ``z0:z1,y0:y1,x0:x1``, whose ends may be left out (``10:``, ``:``), for a volume of a shape (Z, H, W).

        Raises:
            ValueError: another text, or a region that is empty or not inside the volume ``name``.
        """
        parts = [_PART.fullmatch(part) for part in text.split(",")]
        if len(parts) != len(_AXES) or None in parts:
            raise ValueError(
                f"the region {text!r} is not z0:z1,y0:y1,x0:x1 in voxels from 0, as 10:20,0:512,: for example"
            )
        spans = []
        for axis, part, size in zip(_AXES, parts, shape, strict=True):
            start, stop = (int(number or default) for number, default in zip(part.groups(), (0, size), strict=True))  # type: ignore[union-attr]
            if stop > size:
                raise ValueError(f"the region {text!r} ends outside of {name}: {axis} goes from 0 to {size} there")
            if start >= stop:
                raise ValueError(
                    f"the region {text!r} is empty: {axis} goes from {start} to {stop} ({name}: 0 to {size})"
                )
            spans.append((start, stop))
        return cls(*spans)

    @property
    def origin(self) -> tuple[int, int, int]:
        """The first voxel (z, y, x)."""
        return self.z[0], self.y[0], self.x[0]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box (y0, x0, y1, x1) of its slices."""
        return self.y[0], self.x[0], self.y[1], self.x[1]
