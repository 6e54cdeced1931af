"""How far a click reaches: to the object that it is on, as VISTA3D applies clicks (He et al. 2024), or everywhere."""

from __future__ import annotations

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, foreground_components
from prompt_das.ops.points import POSITIVE

import numpy as np


def limit_to_clicked_objects(automatic: np.ndarray, prompted: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """Take the prompted prediction where a clicked object is, and the automatic one elsewhere.

    An object is a connected component of what is foreground in one prediction or the other. The result depends on the
    set of clicks alone, so a click that is taken back leaves nothing.

    Args:
        automatic, prompted: (H, W) foreground probability without and with the clicks; NaN where it is not known.
        clicks: (N, 2 or 3) as (x, y, ...) in pixels.

    Returns:
        (H, W), of the dtype of ``automatic``.
    """
    foreground = (automatic > FOREGROUND_THRESHOLD) | (prompted > FOREGROUND_THRESHOLD)
    count, objects, pixels, found = foreground_components(foreground)
    columns, rows = np.floor(clicks[:, :2]).astype(np.int64).T
    clicked = np.zeros(count + 1, bool)
    clicked[objects[rows, columns]] = True
    pixels = pixels[clicked[found]]
    limited = automatic.copy()
    limited.ravel()[pixels] = prompted.ravel()[pixels]
    return limited


def keep_corrected_objects(
    averaged: np.ndarray, own: np.ndarray, automatic: np.ndarray, clicks: np.ndarray
) -> np.ndarray:
    """Take a slice's own prediction where a click corrects something: its neighbors must not undo the click.

    A click corrects what the network does not predict there by itself, or the average with the neighbors does not.

    Args:
        averaged, own, automatic: (H, W) foreground probability: averaged over neighboring slices, of the slice with
            its clicks, of the slice without.
        clicks: (N, 3) as (x, y, label) in pixels.

    Returns:
        (H, W), of the dtype of ``averaged``.
    """
    columns, rows = np.floor(clicks[:, :2]).astype(np.int64).T
    wanted = clicks[:, 2] == POSITIVE
    differs = [(one[rows, columns] > FOREGROUND_THRESHOLD) != wanted for one in (automatic, averaged)]
    return limit_to_clicked_objects(averaged, own, clicks[differs[0] | differs[1]])
