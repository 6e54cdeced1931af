"""Points in the formats of other programs: tables of napari, lists of voxels, WDA-Net's files.

All of them count pixels: the center of the first pixel is (0, 0) there, and (0.5, 0.5) in the clicks that are returned:
a dict from the index of a slice to (N, 3) float32 (x, y, label). A point without a label is positive.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from prompt_das.ops.points import POSITIVE, as_clicks
from prompt_das.volumes.point_rows import clicks_of_rows, require_numbers

import numpy as np

logger = logging.getLogger(__name__)

MAX_SLICE = 2**31  # no volume has more
CSV_COLUMNS = (("axis-0", "axis-1", "axis-2"), ("z", "y", "x"))


def clicks_of_json_list(path: Path, content: list[Any], slice_names: Sequence[str] | None) -> dict[int, np.ndarray]:
    """Clicks of a JSON list: of voxels ``[z, y, x]``, perhaps with a label, as lists or tables, or WDA-Net's.

    Args:
        slice_names: file names of the volume's slices, in order, for WDA-Net's points.

    Raises:
        ValueError: it is neither, or its values make no sense; the message names the file.
    """
    if all(_is_voxel(entry) for entry in content):
        return _from_voxels(path, content)
    return _from_wdanet(path, content, slice_names)


def _is_voxel(entry: object) -> bool:
    if isinstance(entry, dict):
        return {"z", "y", "x"} <= entry.keys()
    return isinstance(entry, list) and len(entry) in (3, 4) and not any(isinstance(x, list | dict) for x in entry)


def _from_voxels(path: Path, content: list[Any]) -> dict[int, np.ndarray]:
    rows = [
        [entry["z"], entry["y"], entry["x"], entry.get("label", POSITIVE)]
        if isinstance(entry, dict)
        else [*entry, POSITIVE][:4]
        for entry in content
    ]
    require_numbers(path, None, rows, "a [z, y, x] of finite numbers, perhaps with a label")
    array = np.array(rows, dtype=np.float64).reshape(-1, 4)
    slices = np.rint(array[:, 0].clip(-MAX_SLICE, MAX_SLICE)).astype(np.int64)
    clicks = np.column_stack([array[:, 2:0:-1] + 0.5, array[:, 3]])
    return {int(z): clicks_of_rows(path, z, clicks[slices == z]) for z in np.unique(slices)}


def _from_wdanet(path: Path, content: list[Any], slice_names: Sequence[str] | None) -> dict[int, np.ndarray]:
    """``[[size], [{file name: [[row, column], ...]}, ...]]``; names that the volume does not have are skipped."""
    try:
        # The first element holds width and height, swapped in the published files: not used.
        _, entries = content
        named: list[tuple[str, object]] = [(name, points) for entry in entries for name, points in entry.items()]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: a JSON list that is not WDA-Net's [[size], [{{name: [[row, column]]}}]]") from error
    if slice_names is None:
        raise ValueError(f"{path}: its points belong to file names, but this volume has none (it is not a folder)")
    found = _match_names(path, named, slice_names)
    logger.info("%s: points of %d of its %d slices belong to this volume", path, len(found), len(named))
    return {z: _from_rows_and_columns(path, name, points) for z, (name, points) in sorted(found.items())}


def _match_names(
    path: Path, named: Sequence[tuple[str, object]], slice_names: Sequence[str]
) -> dict[int, tuple[str, object]]:
    """(file name, points) -> the same by the index of the slice that has this name, whatever its ending."""
    slices_of: dict[str, list[int]] = {}
    for z, name in enumerate(slice_names):
        slices_of.setdefault(PurePath(name).stem, []).append(z)
    found: dict[int, tuple[str, object]] = {}
    for name, points in named:
        same = slices_of.get(PurePath(name).stem, [])
        if len(same) > 1:  # then the ending decides
            same = [z for z in same if slice_names[z] == PurePath(name).name] or same
        if len(same) > 1:
            names = " and ".join(slice_names[z] for z in same)
            raise ValueError(f"{path}: points of {name}, which may be the slices {names}; rename one of them")
        if not same:
            continue
        z = same[0]
        if z in found:
            raise ValueError(f"{path}: points of {found[z][0]} and of {name}, which are one slice; which of them hold?")
        found[z] = (name, points)
    if not found:
        raise ValueError(
            f"{path}: no file name fits the volume (points of {[n for n, _ in named[:3]]} …, slices "
            f"{list(slice_names[:3])} …); are these the points of another volume?"
        )
    return found


def _from_rows_and_columns(path: Path, name: str, points: object) -> np.ndarray:
    """``[[row, column], ...]`` of the slice with this file name -> (N, 3) clicks."""
    if not isinstance(points, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in points):
        raise ValueError(f"{path}, slice {name}: points are not a list of number pairs")
    require_numbers(path, name, points, "a pair of finite numbers")
    return as_clicks(np.array(points, dtype=np.float32).reshape(-1, 2)[:, ::-1] + np.float32(0.5))


def clicks_of_csv(path: Path, text: str) -> dict[int, np.ndarray]:
    """Clicks of a table with the columns of ``CSV_COLUMNS`` (slice, row, column), and perhaps ``label``.

    Raises:
        ValueError: other columns, or a value that is no number; the message names the line.
    """
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    rows: dict[int, list[list[float]]] = {}
    try:
        header = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = header
        columns = next((c for c in CSV_COLUMNS if set(c) <= set(header)), None)
        if columns is None or any(header.count(column) > 1 for column in columns):
            expected = " or ".join(", ".join(c) for c in CSV_COLUMNS)
            raise ValueError(f"{path}: columns {header!r:.200}; expected {expected}, each once")
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{path}, line {reader.line_num}: more values than the {len(header)} columns {', '.join(header)}; "
                    "are there decimal commas?"
                )
            try:
                z, y, x = (float(row[column]) for column in columns)
                label = float(row.get("label") or POSITIVE)
                rows.setdefault(int(np.rint(z)), []).append([x + 0.5, y + 0.5, label])
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {row!r:.200} holds no slice, row and column, or a label "
                    "that is no number"
                ) from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error}); is it a file of points?") from error
    if not text.endswith(("\n", "\r")):
        logger.warning("%s: its last line has no end. Was the file cut off? Then its last number is wrong.", path)
    return {z: clicks_of_rows(path, z, rows[z]) for z in sorted(rows)}
