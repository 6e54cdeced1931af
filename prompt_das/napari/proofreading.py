"""Proofreading of the instances in the slice in view: keep, delete, merge and split them with clicks, and undo.

An edit holds whatever the network answers later, and becomes clicks of the prompts, so that the next adaptation learns
from it: a negative one in what was deleted, a positive one at the center of what was kept, merged or split; other
clicks there are taken out. What is painted, filled or erased with napari's own tools holds as well, and Ctrl+Z takes
back both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from prompt_das.napari.edits import bounding_box
from prompt_das.napari.image_session import ImageSession, stack_of
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import NO_POINTS
from prompt_das.napari.notifications import Notifications
from prompt_das.ops.points import instance_centers
from prompt_das.ops.split_at_points import split_at_points

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels

KEEP, DELETE, MERGE, SPLIT = TOOLS = ("keep", "delete", "merge", "split")
_HINTS = {
    KEEP: ("Keep: click on an instance that is right",),
    DELETE: ("Delete: click on an instance that is none",),
    MERGE: ("Merge: click on one part", "Merge: now click on the part that belongs to it"),
    SPLIT: ("Split: click on one object of the two", "Split: now click on the other"),
}


class _Spot(NamedTuple):
    """A pixel of a slice, with the id of the instance there."""

    z: int
    row: int
    column: int
    label: int


class Proofreading:
    """The tool that is chosen, and what its clicks do to the image in use.

    Attributes:
        tool: one of ``TOOLS``; None while clicks set points.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        image_sessions: ImageSessions,
        notifications: Notifications,
        *,
        on_change: Callable[[], object],
        on_edit: Callable[[], object],
    ) -> None:
        """
        Args:
            on_change: called when another tool, or its next click, is due.
            on_edit: called when instances and prompts were changed.
        """
        self.tool: str | None = None
        self._first: _Spot | None = None  # of a merge or split
        self._viewer, self._image_sessions, self._notifications = viewer, image_sessions, notifications
        self._on_change, self._on_edit = on_change, on_edit
        viewer.layers.selection.events.active.connect(self._on_active)

    def close(self) -> None:
        """Leave the viewer alone."""
        self._viewer.layers.selection.events.active.disconnect(self._on_active)

    @property
    def hint(self) -> str:
        """What to click on next; "" without a tool."""
        return "" if self.tool is None else _HINTS[self.tool][self._first is not None]

    def choose(self, tool: str | None) -> None:
        """Take a tool: its clicks go to the layer of instances. None: clicks set points again."""
        image_session = self._image_sessions.current
        if image_session is None:
            tool = None
        before, self.tool, self._first = self.tool, None, None
        if image_session is not None and tool is not None:
            image_session.instances.mode = "pan_zoom"
            self._viewer.layers.selection.active = image_session.instances
        elif image_session is not None and before is not None:
            self._viewer.layers.selection.active = image_session.prompts
        self.tool = tool  # not before: while the selection changes, no layer is active for a moment
        self._on_change()

    def watch(self, image_session: ImageSession) -> None:
        """Listen to clicks, strokes and Ctrl+Z in the instances of a new image."""
        instances = image_session.instances
        instances.mouse_drag_callbacks.append(self._on_mouse)
        instances.events.paint.connect(self._on_stroke)
        for drawing in (instances.events.labels_update, instances.events.set_data):
            drawing.connect(self._on_drawing)
        instances.bind_key("Control-Z", self._on_undo, overwrite=True)

    def _on_active(self) -> None:
        """Another layer was selected: clicks are for that one."""
        image_session = self._image_sessions.current
        active = self._viewer.layers.selection.active
        if self.tool is not None and (image_session is None or active is not image_session.instances):
            self.tool = self._first = None
            self._on_change()

    # ---- clicks

    def _on_mouse(self, layer: Labels, event: Any) -> Iterator[None]:
        """From the press to the release of the mouse: napari's generator. Dragging moves the view as ever."""
        yield
        dragged = False
        while event.type == "mouse_move":
            dragged = True
            yield
        image_session, z = self._image_sessions.current, self._image_sessions.slice_in_view
        if dragged or self.tool is None or image_session is None or z is None or layer is not image_session.instances:
            return
        row, column = np.rint(layer.world_to_data(event.position)[-2:]).astype(int)
        self.click(z, int(row), int(column))

    def click(self, z: int, row: int, column: int) -> None:
        """Use the tool on a pixel of slice z of the image in use."""
        image_session = self._image_sessions.current
        if image_session is None or self.tool is None:
            return
        ids = stack_of(image_session.instances)[z]
        inside = 0 <= row < ids.shape[0] and 0 <= column < ids.shape[1]
        spot = _Spot(z, row, column, int(ids[row, column]) if inside else 0)
        if not spot.label:
            self._notifications.warning(f"There is no instance here to {self.tool}: click on one")
        elif self.tool == DELETE:
            self._replace(image_session, z, ids == spot.label, lambda mask: mask * 0, negative=True)
        elif self.tool == KEEP:
            self._replace(image_session, z, ids == spot.label, lambda mask: mask * spot.label)
        elif self._first is None or self._first.z != z:
            self._first = spot
            self._on_change()
        else:
            first, self._first = self._first, None
            (self._merge if self.tool == MERGE else self._split)(image_session, first, spot)
            self._on_change()

    # ---- edits

    def _merge(self, image_session: ImageSession, first: _Spot, second: _Spot) -> None:
        if first.label == second.label:
            self._notifications.warning("Both clicks lie on one instance: it is merged already")
            return
        mask = np.isin(stack_of(image_session.instances)[first.z], (first.label, second.label))
        self._replace(image_session, first.z, mask, lambda mask: mask * first.label)

    def _split(self, image_session: ImageSession, first: _Spot, second: _Spot) -> None:
        ids = stack_of(image_session.instances)[first.z]
        seeds = np.array([first[1:3], second[1:3]])
        if first.label != second.label or (seeds[0] == seeds[1]).all():
            self._notifications.warning("To split an instance, click on two places of the same one")
            return
        mask, new = ids == first.label, int(ids.max()) + 1
        corner = np.array([side.start for side in bounding_box(mask)])
        of_part = np.array([0, first.label, new])
        self._replace(image_session, first.z, mask, lambda mask: of_part[split_at_points(mask, seeds - corner)])

    def _replace(
        self,
        image_session: ImageSession,
        z: int,
        mask: np.ndarray,
        make_ids: Callable[[np.ndarray], np.ndarray],
        *,
        negative: bool = False,
    ) -> None:
        """Give the pixels of a mask (H, W) new ids, and clicks that say the same.

        Args:
            make_ids: of the mask in a box (h, w) the ids there.
            negative: what is under the mask is none: one negative click, else a positive one in each new instance.
        """
        box, ids = bounding_box(mask), stack_of(image_session.instances)[z]
        inside, before = mask[box], ids[box].copy()
        after = make_ids(inside).astype(ids.dtype)
        _, centers = instance_centers(inside.astype(np.int32) if negative else after)
        centers += (box[1].start, box[0].start)
        ids[box][inside] = after[inside]
        positive, negatives = (NO_POINTS, centers) if negative else (centers, NO_POINTS)
        clicks = (
            image_session.points_change(image_session.prompts, z, mask, positive),
            image_session.points_change(image_session.negative_prompts, z, mask, negatives),
        )
        image_session.edits.hold(z, mask.shape, box, inside, before, clicks)
        for change in clicks:
            change.apply()
        self._show(image_session, z)

    def undo(self) -> None:
        """Take back the last edit of the image in use, or the last stroke of napari's own tools."""
        image_session = self._image_sessions.current
        edit = None if image_session is None else image_session.edits.undo()
        if image_session is None:
            return
        if edit is None or edit.before is None:
            image_session.instances.undo()
        else:
            ids = stack_of(image_session.instances)[edit.z]
            ids[edit.box][edit.mask] = edit.before[edit.mask]
            for change in edit.clicks:
                change.revert()
        self._first = None
        self._show(image_session, None if edit is None else edit.z)

    def _show(self, image_session: ImageSession, z: int | None) -> None:
        """Show what was changed in slice z, and let the network answer the clicks."""
        if z is not None and z == self._image_sessions.slice_in_view:
            image_session.edits.drawn = (z, stack_of(image_session.instances)[z].copy())
        image_session.instances.refresh()
        self._on_edit()

    def _on_undo(self, layer: Labels) -> None:
        current = self._image_sessions.current
        (self if current is not None and layer is current.instances else layer).undo()

    def _on_stroke(self, event: Any) -> None:
        """A stroke of napari's own tools. Some tell of it before they draw: then the drawing is waited for."""
        image_session = next((one for one in self._image_sessions if one.instances is event.source), None)
        if image_session is not None:
            image_session.edits.painting = True
            self._on_drawing(event)

    def _on_drawing(self, event: Any) -> None:
        """What a stroke has changed in the slice in view holds."""
        image_session = next((one for one in self._image_sessions if one.instances is event.source), None)
        if image_session is None or not image_session.edits.painting or image_session.edits.drawn is None:
            return
        z, before = image_session.edits.drawn
        ids = stack_of(image_session.instances)[z]
        mask = ids != before
        if z == self._image_sessions.slice_in_view and mask.any():
            box = bounding_box(mask)
            image_session.edits.painting = False
            image_session.edits.hold(z, mask.shape, box, mask[box], None)
            image_session.edits.drawn = (z, ids.copy())
            self._on_change()
