"""Files of sparse point annotations: our own JSON, and formats of others.

In memory they are ``slice_points``: a dict from the index z of a slice in its volume to a float32 (N, 2) array of
points (x, y) in pixels, where the center of the first pixel is (0.5, 0.5). A slice with an empty array was
annotated and has no points. Where labels matter, clicks (N, 3) as (x, y, label) take their place: 1 for a positive one,
which says "this is one", 0 for a negative one, which says "this is none". A point without a label is positive.

Read, recognized by their content:

* our JSON, as ``write_points`` makes it: ``[x, y]``, or ``[x, y, label]``;
* CSV with the columns ``axis-0, axis-1, axis-2`` (what napari saves: slice, row, column) or ``z, y, x``, and perhaps
  ``label``;
* a JSON list of ``[z, y, x]``, ``[z, y, x, label]`` or ``{"z": …, "y": …, "x": …}``, perhaps with ``"label"``;
* the JSON of WDA-Net (Qiu et al.): ``[[size], [{file name: [[row, column], …]}, …]]``.

All but our own count pixels: the center of the first pixel is (0, 0) there.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_das.ops.points import NEGATIVE, POSITIVE, as_clicks, require_inside
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.foreign_point_files import MAX_SLICE, clicks_of_csv, clicks_of_json_list
from prompt_das.volumes.point_rows import clicks_of_rows
from prompt_das.volumes.volume import Box

import numpy as np

logger = logging.getLogger(__name__)

SlicePoints = dict[int, np.ndarray]  # (N, 2)
SliceClicks = dict[int, np.ndarray]  # (N, 3)
FORMAT = "prompt_das/points"
VERSION = 1
_COORDINATES = (
    "(x, y) in pixels, or (x, y, label), label 0 for a negative click; the center of the first pixel is (0.5, 0.5); "
    "keys are slice indices"
)
_MAX_DIGITS = 18


def write_points(
    path: str | Path,
    slice_points: Mapping[int, np.ndarray],
    *,
    dataset: str | None = None,
    ratio: float | None = None,
    seed: int | None = None,
) -> None:
    """Write points as JSON, one line a slice. The file appears whole or not at all.

    Args:
        path: folders on the way are made.
        slice_points: (N, 2) points or (N, 3) clicks of slices, see the top of this module.
        dataset, ratio, seed: where the points come from, noted in the file.
    """
    head = {"format": FORMAT, "version": VERSION, "coordinates": _COORDINATES}
    head |= {"dataset": dataset, "ratio": ratio, "seed": seed}
    lines = []
    for z in sorted(slice_points):
        # str() of a float32 is the shortest text that reads back as the same number.
        triples = [(float(str(x)), float(str(y)), int(label)) for x, y, label in as_clicks(slice_points[z])]
        lines.append(f'  "{int(z)}": ' + json.dumps([[x, y] if label else [x, y, 0] for x, y, label in triples]))
    body = "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"
    text = json.dumps(head, indent=1)[:-2] + ',\n "slices": ' + body + "\n}\n"

    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """What a JSON file of :func:`write_points` notes of ``dataset``, ``ratio`` and ``seed``; {} for other files."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: content[key] for key in ("dataset", "ratio", "seed") if content.get(key) is not None}


def crop_clicks(slice_clicks: SliceClicks, box: Box) -> SliceClicks:
    """The clicks inside a box (y0, x0, y1, x1) of the slices, in pixels of that box.

    Slices whose clicks are all outside are left out: the box of them was perhaps not annotated.
    """
    y0, x0, y1, x1 = box
    cropped = {}
    for z, clicks in slice_clicks.items():
        x, y = clicks[:, 0], clicks[:, 1]
        inside = clicks[(y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)]
        if len(inside) or not len(clicks):
            cropped[z] = inside - np.array([x0, y0, 0], np.float32)
    return cropped


def read_points(
    path: str | Path,
    slice_names: Sequence[str] | None = None,
    *,
    num_slices: int | None = None,
    size: tuple[int, int] | None = None,
) -> SlicePoints:
    """Read the positive points of a file, (N, 2) of each slice, see :func:`read_clicks`.

    Slices that hold negative clicks alone have an empty array.
    """
    clicks = read_clicks(path, slice_names, num_slices=num_slices, size=size)
    negative = sum(int((of_slice[:, 2] == NEGATIVE).sum()) for of_slice in clicks.values())
    if negative:
        logger.info("%s: %d negative clicks are left out, only positive ones are needed here", path, negative)
    return {z: of_slice[of_slice[:, 2] == POSITIVE, :2] for z, of_slice in clicks.items()}


def read_clicks(
    path: str | Path,
    slice_names: Sequence[str] | None = None,
    *,
    num_slices: int | None = None,
    size: tuple[int, int] | None = None,
) -> SliceClicks:
    """Read a file of points or clicks in any of the formats listed on top of this module -> (N, 3) of each slice.

    Args:
        path: the file.
        slice_names: file names of the volume's slices, in order. WDA-Net's JSON needs them: its points belong to file
            names, and those of files that this volume does not have are skipped.
        num_slices: number of slices of the volume, for the check; by default as many as there are names.
        size: (H, W) of a slice in pixels, for the check.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown format, a value that is no number, a label that is neither 0 nor 1, a slice outside the
            volume or a point outside the image; the message names the file, the value and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"points file {path} not found; `prompt-das sample-points` makes one from labels")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error}); is it a file of points, or another one?") from error
    if text.lstrip()[:1] in ("{", "["):
        content = _parse_json(path, text)
        if isinstance(content, dict):
            points = _from_own_json(path, content)
        else:
            points = clicks_of_json_list(path, content, slice_names)
    else:
        points = clicks_of_csv(path, text)
    if num_slices is None and slice_names is not None:
        num_slices = len(slice_names)
    _check(path, points, num_slices, size)
    return points


def _parse_json(path: Path, text: str) -> Any:
    try:
        # Python takes minutes for an integer of a million digits, or refuses it; as a float it is infinite.
        return json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_int=lambda digits: int(digits) if len(digits) <= _MAX_DIGITS else float(digits),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); was the file cut off?") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not a file of points, its brackets are nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would keep the last one of keys that come twice, and lose the points of the others."""
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r:.100} comes twice; which of them holds?")
    return content


def _from_own_json(path: Path, content: dict[str, Any]) -> SliceClicks:
    if content.get("format") != FORMAT or not isinstance(content.get("slices"), dict):
        raise ValueError(
            f'{path}: "format" is {content.get("format")!r:.100}, expected {FORMAT!r} with a table "slices"'
        )
    if content.get("version") != VERSION:
        raise ValueError(f"{path}: version {content.get('version')!r:.100}, this release reads version {VERSION}")
    return _slices(path, content["slices"])


def _slices(path: Path, table: dict[str, Any]) -> SliceClicks:
    points: SliceClicks = {}
    for key, value in table.items():
        if not re.fullmatch(r"-?[0-9]{1,18}", key):
            raise ValueError(f"{path}: slice {key!r:.100} is not a number; keys are slice indices from 0")
        if int(key) in points:
            raise ValueError(f"{path}: slice {int(key)} comes twice; which of them holds?")
        if not isinstance(value, list) or not all(isinstance(entry, list) and len(entry) in (2, 3) for entry in value):
            raise ValueError(f"{path}, slice {key}: points are not a list of number pairs, or of pairs with a label")
        points[int(key)] = clicks_of_rows(path, key, [[*entry, POSITIVE][:3] for entry in value])
    return points


def _check(path: Path, slice_points: SliceClicks, num_slices: int | None, size: tuple[int, int] | None) -> None:
    for z, points in slice_points.items():
        if not 0 <= z < (num_slices or MAX_SLICE):
            last = (num_slices or MAX_SLICE) - 1
            raise ValueError(f"{path}: slice {f'{z}':.20}, but the volume has slices 0 to {last}")
        if size is not None:
            require_inside(points[:, :2], size, f"{path}, slice {z}: ")
