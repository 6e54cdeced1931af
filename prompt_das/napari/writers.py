"""Layers that napari saves in the formats of this package: File > Save Selected Layers."""

from __future__ import annotations

from typing import Any

from prompt_das.napari.files import save_labels
from prompt_das.napari.image_session import LABEL, stack_of
from prompt_das.napari.layers import to_points, voxel_size_of, with_slice
from prompt_das.ops.points import NEGATIVE, POSITIVE, as_clicks
from prompt_das.volumes.point_files import write_points

import numpy as np
from napari.layers import Layer


def write_labels(path: str, data: Any, about: dict[str, Any]) -> list[str]:
    """Write a layer of labels as OME-Zarr, with its voxel size.

    Raises:
        FileExistsError: there is something of this name.
    """
    layer: Any = Layer.create(data, about, "labels")
    return [str(save_labels(path, stack_of(layer), voxel_size_of(layer), lambda done, total: None))]


def write_clicks(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write layers of points as one file of ours; the points of a layer of negative prompts are negative."""
    rows = [np.zeros((0, 4))]
    for data, about, _ in layers:
        label = (about.get("metadata") or {}).get(LABEL, NEGATIVE if "negative" in about["name"] else POSITIVE)
        positions = with_slice(data)
        rows.append(np.column_stack([np.rint(positions[:, 0]), to_points(positions), np.full(len(positions), label)]))
    clicks = np.concatenate(rows)
    slices = np.unique(clicks[:, 0]).astype(int)
    write_points(path, {int(z): as_clicks(clicks[clicks[:, 0] == z, 1:]) for z in slices})
    return [path]
