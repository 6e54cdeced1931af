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

import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import (
    NEGATIVE,
    POSITIVE,
    as_clicks,
    instance_centers,
    require_inside,
    sample_sparse_points,
)
from prompt_das.utils.atomic_write import atomic_write
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
_MAX_SLICE = 2**31  # no volume has more
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_CSV_COLUMNS = (("axis-0", "axis-1", "axis-2"), ("z", "y", "x"))


def sample_dataset_points(
    dataset_dicts: Iterable[Mapping[str, Any]],
    ratio: float,
    seed: int,
    read_labels: Callable[[Any], np.ndarray],
) -> SlicePoints:
    """Sparse points of a data set: ceil(ratio · n) of the n instances of every slice (Prompt-DAS, Sec. 3.1).

    The instances are the 8-connected components of the slice's binary mask. Each slice has its own generator, seeded
    by (seed, z): adding or removing slices does not change the points of the others.

    Args:
        dataset_dicts: slices of one volume in Detectron2's dataset format, with the key "slice".
        ratio: fraction of the instances that get a point, 0 to 1.
        seed: non-negative.
        read_labels: maps one of ``dataset_dicts`` to its label map (H, W).
    """
    slice_points: SlicePoints = {}
    for dataset_dict in dataset_dicts:
        z = int(dataset_dict["slice"])
        if z in slice_points:
            raise ValueError(f"slice {z} comes twice: sparse points are of one volume, each slice once")
        _, centers = instance_centers(connected_components(read_labels(dataset_dict) > 0))
        slice_points[z] = sample_sparse_points(centers, ratio, np.random.default_rng([seed, z]))
    return slice_points


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
        elif all(_is_triple(entry) for entry in content):
            points = _from_triples(path, content)
        else:
            points = _from_wdanet(path, content, slice_names)
    else:
        points = _from_csv(path, text)
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


def _is_triple(entry: object) -> bool:
    if isinstance(entry, dict):
        return {"z", "y", "x"} <= entry.keys()
    return isinstance(entry, list) and len(entry) in (3, 4) and not any(isinstance(x, list | dict) for x in entry)


def _from_triples(path: Path, content: list[Any]) -> SliceClicks:
    rows = [
        [entry["z"], entry["y"], entry["x"], entry.get("label", POSITIVE)]
        if isinstance(entry, dict)
        else [*entry, POSITIVE][:4]
        for entry in content
    ]
    odd = next((row for row in rows if not all(map(_is_number, row))), None)
    if odd is not None:
        raise ValueError(f"{path}: {odd!r:.100} is not a [z, y, x] of finite numbers, perhaps with a label")
    array = np.array(rows, dtype=np.float64).reshape(-1, 4)
    slices = np.rint(array[:, 0].clip(-_MAX_SLICE, _MAX_SLICE)).astype(np.int64)
    clicks = np.column_stack([array[:, 2:0:-1] + 0.5, array[:, 3]])
    return {int(z): _clicks(path, z, clicks[slices == z]) for z in np.unique(slices)}


def _from_wdanet(path: Path, content: list[Any], slice_names: Sequence[str] | None) -> SliceClicks:
    try:
        # The first element holds width and height, swapped in the published files: not used.
        _, entries = content
        named: list[tuple[str, object]] = [(name, points) for entry in entries for name, points in entry.items()]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: a JSON list that is not WDA-Net's [[size], [{{name: [[row, column]]}}]]") from error
    if slice_names is None:
        raise ValueError(f"{path}: its points belong to file names, but this volume has none (it is not a folder)")
    slices_of: dict[str, list[int]] = {}
    for z, name in enumerate(slice_names):
        slices_of.setdefault(PurePath(name).stem, []).append(z)
    found: dict[int, tuple[str, object]] = {}
    for name, points in named:
        same = slices_of.get(PurePath(name).stem, [])
        if len(same) > 1:  # then the ending must tell
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
    logger.info("%s: points of %d of its %d slices belong to this volume", path, len(found), len(named))
    return {
        z: as_clicks(_pairs(path, name, points)[:, ::-1] + np.float32(0.5))
        for z, (name, points) in sorted(found.items())
    }


def _from_csv(path: Path, text: str) -> SliceClicks:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    rows: dict[int, list[list[float]]] = {}
    try:
        header = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = header
        columns = next((c for c in _CSV_COLUMNS if set(c) <= set(header)), None)
        if columns is None or any(header.count(column) > 1 for column in columns):
            expected = " or ".join(", ".join(c) for c in _CSV_COLUMNS)
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
    return {z: _clicks(path, z, rows[z]) for z in sorted(rows)}


def _slices(path: Path, table: dict[str, Any]) -> SliceClicks:
    points: SliceClicks = {}
    for key, value in table.items():
        if not re.fullmatch(r"-?[0-9]{1,18}", key):
            raise ValueError(f"{path}: slice {key!r:.100} is not a number; keys are slice indices from 0")
        if int(key) in points:
            raise ValueError(f"{path}: slice {int(key)} comes twice; which of them holds?")
        if not isinstance(value, list) or not all(isinstance(entry, list) and len(entry) in (2, 3) for entry in value):
            raise ValueError(f"{path}, slice {key}: points are not a list of number pairs, or of pairs with a label")
        points[int(key)] = _clicks(path, key, [[*entry, POSITIVE][:3] for entry in value])
    return points


def _is_number(value: object) -> bool:
    """A finite number, also as float32. JSON's true is a number to NumPy, and so is the text "1"."""
    is_number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    return is_number and abs(float(value)) < _MAX_FLOAT32  # type: ignore[arg-type]


def _clicks(path: Path, name: object, rows: Any) -> np.ndarray:
    """Rows of x, y, label -> (N, 3)."""
    odd = next((row for row in rows if not all(map(_is_number, row))), None)
    if odd is not None:
        raise ValueError(f"{path}, slice {name}: {odd!r:.100} is not x, y and perhaps a label, all finite numbers")
    try:
        return as_clicks(np.array(rows, dtype=np.float32).reshape(-1, 3))
    except ValueError as error:
        raise ValueError(f"{path}, slice {name}: {error}") from error


def _pairs(path: Path, name: object, points: object) -> np.ndarray:
    if not isinstance(points, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in points):
        raise ValueError(f"{path}, slice {name}: points are not a list of number pairs")
    odd = next((pair for pair in points if not all(map(_is_number, pair))), None)
    if odd is not None:
        raise ValueError(f"{path}, slice {name}: {odd!r:.100} is not a pair of finite numbers")
    return np.array(points, dtype=np.float32).reshape(-1, 2)


def _check(path: Path, slice_points: SliceClicks, num_slices: int | None, size: tuple[int, int] | None) -> None:
    for z, points in slice_points.items():
        if not 0 <= z < (num_slices or _MAX_SLICE):
            last = (num_slices or _MAX_SLICE) - 1
            raise ValueError(f"{path}: slice {f'{z}':.20}, but the volume has slices 0 to {last}")
        if size is not None:
            require_inside(points[:, :2], size, f"{path}, slice {z}: ")
