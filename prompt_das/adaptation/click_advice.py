"""What is wrong with a user's clicks, found before an adaptation begins, and what to do about it.

Shapes: clicks (n, 3) of each slice as (x, y, label), in pixels of the slice.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_das.adaptation.confidence_fit import highest_at_clicks
from prompt_das.adaptation.held_out_clicks import ClickWindows, some_positive
from prompt_das.data.crop_reader import CropReader
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.points import POSITIVE

import numpy as np

logger = logging.getLogger(__name__)

FEWEST = 5  # positive clicks: one is held out, and fewer than four teach a network those four objects
SUGGESTED = 4  # slices to click on next
MOSTLY = 0.5
CHECKED = 24  # clicks whose places are looked at
ON_NOTHING = 0.2  # of them on an object; below it, their places are worth a second look


def require_usable(
    path: str, clicks: Mapping[int, np.ndarray], shape: tuple[int, int, int], slices: Collection[int]
) -> None:
    """Raise ValueError, with advice, for clicks outside the volume and for too few of them.

    Args:
        path: the file of the clicks, for messages.
        shape: (Z, H, W) of the volume in its file.
        slices: the slices that are used; clicks on others do not count.
    """
    parts = [np.column_stack([np.full(len(c), z), c[:, :2]]) for z, c in clicks.items()]
    rows = np.concatenate([np.zeros((0, 3)), *parts])
    require_inside_volume(path, rows, shape)
    number = sum(int((c[:, 2] == POSITIVE).sum()) for z, c in clicks.items() if z in slices)
    if number < FEWEST:
        advice = ", ".join(map(str, slices_to_click(clicks, sorted(slices))))
        raise ValueError(
            f"{path} has {number} positive clicks on these slices, and an adaptation needs {FEWEST}: click at least "
            f"{FEWEST - number} more, e.g. on the slices {advice}. `prompt-das propose` names the places that are "
            "worth most; without --points the adaptation is unsupervised"
        )


def require_inside_volume(path: str, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Raise ValueError if clicks, rows (z, x, y), lie outside of a volume (Z, H, W): perhaps with axes exchanged."""
    depth, height, width = shape

    def num_outside(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> int:
        inside = (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return int((~inside).sum())

    z, x, y = rows.T
    outside = num_outside(z, y, x)
    if not outside:
        return
    found = (
        f"{path}: {outside} of {len(rows)} clicks lie outside of the volume of {depth} x {height} x {width} (z, y, x)"
    )
    exchanged = {"x and y": num_outside(z, x, y), "z and x": num_outside(x, y, z), "z and y": num_outside(y, z, x)}
    axes = min(exchanged, key=lambda name: exchanged[name])
    if exchanged[axes] < MOSTLY * outside:
        raise ValueError(
            f"{found}, but only {exchanged[axes]} with {axes} exchanged: the axes seem exchanged. Columns are z, y, x: "
            "slice, row, column"
        )
    raise ValueError(f"{found}: are these the clicks of another volume, or of another resolution or crop?")


def slices_to_click(clicks: Mapping[int, np.ndarray], slices: Sequence[int]) -> list[int]:
    """A few of ``slices``, evenly spread, without those that have clicks as far as others are left."""
    free = [z for z in slices if not len(clicks.get(z, ()))] or list(slices)
    places = np.linspace(0, len(free) - 1, min(SUGGESTED + 2, len(free))).round().astype(int)
    inner = places[1:-1] if len(places) > 2 else places  # the ends of a stack are often poor
    return [free[i] for i in inner]


def warn_of_empty_places(
    path: str,
    slices: Sequence[dict[str, Any]],
    clicks: Mapping[int, np.ndarray],
    crop: CropReader,
    model: PromptDAS,
) -> None:
    """Log a warning if most positive clicks lie on nothing that the network takes for an object.

    A strange volume may be the reason, and is no error. Exchanged axes of slices that are about square are found here
    only. A few clicks are looked at.

    Args:
        slices, crop: see :class:`~prompt_das.adaptation.held_out_clicks.ClickWindows`.
        model: the starting network, in eval mode.
    """
    chosen = some_positive(clicks, CHECKED)
    number = sum(map(len, chosen.values()))
    hits = count_on_objects(chosen, slices, crop, model)
    if hits >= ON_NOTHING * number:
        return
    size = (slices[0]["width"], slices[0]["height"])
    exchanged = {z: of_slice[:, [1, 0, 2]] for z, of_slice in chosen.items()}
    exchanged = {z: of_slice[(of_slice[:, :2] < size).all(axis=1)] for z, of_slice in exchanged.items()}
    others = count_on_objects(exchanged, slices, crop, model)
    logger.warning(
        "%s: of %d clicks only %d lie on what the network takes for an object by itself, and %d with x and y "
        "exchanged. %s",
        *(path, number, hits, others),
        "The axes seem exchanged: columns are z, y, x, which is slice, row, column."
        if others > max(MOSTLY * number, hits)
        else "Are the clicks on objects (open them in napari), and is the scale right?",
    )


def count_on_objects(
    clicks: Mapping[int, np.ndarray], slices: Sequence[dict[str, Any]], crop: CropReader, model: PromptDAS
) -> int:
    """How many of the clicks, (n, 3) by slice, lie in the automatic mask."""
    return int((highest_at_clicks(ClickWindows(slices, clicks, crop), model) > 0).sum())
