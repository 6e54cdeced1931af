"""What the user has changed in the instances of slices by hand: it holds, whatever the network answers, until undone.

Shapes: H, W height and width of a slice; h, w those of a box in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the session works without napari
    from napari.layers import Points

Box = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class PointsChange:
    """Points (N, D) to take out of a layer, and others to put in."""

    layer: Points
    removed: np.ndarray
    added: np.ndarray

    def apply(self) -> None:
        """Change the layer."""
        self._swap(self.removed, self.added)

    def revert(self) -> None:
        """Undo the change; points that the user has moved or deleted since are left alone."""
        self._swap(self.added, self.removed)

    def _swap(self, out: np.ndarray, in_: np.ndarray) -> None:
        data = self.layer.data
        found = (data[:, None] == out[None]).all(axis=-1).any(axis=1)
        if found.any() or len(in_):
            self.layer.selected_data = set()
            self.layer.data = np.concatenate([data[~found], in_])


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of some pixels of slice z.

    Attributes:
        mask: (h, w) bool, the pixels in the box.
        before: (h, w) ids; None if they were changed by napari, which has kept them itself.
        held: (h, w) bool, which pixels held before.
        clicks: what became of the prompts.
    """

    z: int
    box: Box
    mask: np.ndarray
    before: np.ndarray | None
    held: np.ndarray
    clicks: tuple[PointsChange, ...] = ()


@dataclass(eq=False)
class Edits:
    """The edits of an image.

    Attributes:
        done: the edits, the last one last.
        held: of a slice that was edited (H, W) bool, where its instances are those of the user.
        drawn: z of the slice in view and its ids (H, W) as they were drawn last, to see what is painted over.
        painting: napari has told of a stroke that is not to be seen yet.
    """

    done: list[Edit] = field(default_factory=list)
    held: dict[int, np.ndarray] = field(default_factory=dict)
    drawn: tuple[int, np.ndarray] | None = None
    painting: bool = False

    def clear(self) -> None:
        """Forget them all: the image has other data."""
        self.done.clear()
        self.held.clear()
        self.drawn = None
        self.painting = False

    def hold(
        self,
        z: int,
        size: tuple[int, int],
        box: Box,
        mask: np.ndarray,
        before: np.ndarray | None,
        clicks: tuple[PointsChange, ...] = (),
    ) -> None:
        """Note an edit: the pixels of ``mask`` (h, w) hold from now on."""
        held = self.held.setdefault(z, np.zeros(size, bool))
        self.done.append(Edit(z, box, mask, before, held[box].copy(), clicks))
        held[box] |= mask

    def undo(self) -> Edit | None:
        """Take the last edit out -> it, or None if there is none. Its pixels hold only if they did before."""
        if not self.done:
            return None
        edit = self.done.pop()
        self.held[edit.z][edit.box][edit.mask] = edit.held[edit.mask]
        return edit

    def see(self, z: int, shown: np.ndarray) -> None:
        """Slice z is in view, with ids (H, W) that are shown there already."""
        if self.drawn is None or self.drawn[0] != z:
            self.drawn = (z, shown.copy())

    def kept(self, z: int, shown: np.ndarray, found: np.ndarray) -> np.ndarray:
        """``found`` (H, W), but with what is ``shown`` where the user's edits of slice z hold."""
        held = self.held.get(z)
        return found if held is None else np.where(held, shown, found)


def bounding_box(mask: np.ndarray) -> Box:
    """A box around the pixels of a mask (H, W) that has some, and one pixel more where the slice has one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(max(int(rows[0]) - 1, 0), int(rows[-1]) + 2), slice(max(int(columns[0]) - 1, 0), int(columns[-1]) + 2)


def leave_out_held(found: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Ids (H, W) without what lies where edits hold: pixels there, and all of an instance that is there by half."""
    count = int(found.max(initial=0)) + 1
    area = np.bincount(found.ravel(), minlength=count)
    gone = 2 * np.bincount(found[held], minlength=count) >= area
    gone[0] = False
    return np.where(held | gone[found], 0, found).astype(found.dtype)
