"""Files of sparse point annotations: our own JSON, and formats of others.

In memory they are ``slice_points``: a dict from the index z of a slice in its volume to a float32 (N, 2) array of
points (x, y) in pixels, where the centre of the first pixel is (0.5, 0.5). A slice with an empty array was looked at
and has no points.

Read, recognised by their content:

* our JSON, as ``write_points`` makes it;
* CSV with the columns ``axis-0, axis-1, axis-2`` (what napari saves: slice, row, column) or ``z, y, x``;
* a JSON list of ``[z, y, x]`` or ``{"z": …, "y": …, "x": …}``;
* the JSON of WDA-Net (Qiu et al.): ``[[size], [{file name: [[row, column], …]}, …]]``.

All but our own count pixels: the centre of the first pixel is (0, 0) there.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from prompt_das.files import whole_file
from prompt_das.instances import connected_components
from prompt_das.points import instance_centers, sample_sparse_points

import numpy as np

logger = logging.getLogger(__name__)

SlicePoints = dict[int, np.ndarray]
FORMAT = "prompt_das/points"
VERSION = 1
_COORDINATES = "(x, y) in pixels; the centre of the first pixel is (0.5, 0.5); keys are slice indices"
_CSV_COLUMNS = (("axis-0", "axis-1", "axis-2"), ("z", "y", "x"))


def sample_dataset_points(
    dicts: Iterable[Mapping[str, Any]],
    ratio: float,
    seed: int,
    read_labels: Callable[[Any], np.ndarray],
) -> SlicePoints:
    """Sparse points of a data set: ceil(ratio · n) of the n instances of every slice (Prompt-DAS, Sec. 3.1).

    The instances are the 8-connected components of the slice's binary mask. Each slice has its own generator, seeded
    by (seed, z): adding or removing slices does not change the points of the others.

    Args:
        dicts: slices of one volume in Detectron2's dataset format, with the key "slice".
        ratio: share of the instances that get a point, 0 to 1.
        seed: non-negative.
        read_labels: maps one of ``dicts`` to its label map (H, W).
    """
    slice_points: SlicePoints = {}
    for item in dicts:
        z = int(item["slice"])
        if z in slice_points:
            raise ValueError(f"slice {z} comes twice: sparse points are of one volume, each slice once")
        _, centers = instance_centers(connected_components(read_labels(item) > 0))
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
        slice_points: see the top of this module.
        dataset, ratio, seed: where the points come from, noted in the file.
    """
    head = {"format": FORMAT, "version": VERSION, "coordinates": _COORDINATES}
    head |= {"dataset": dataset, "ratio": ratio, "seed": seed}
    lines = []
    for z in sorted(slice_points):
        points = np.asarray(slice_points[z], dtype=np.float32).reshape(-1, 2)
        # str() of a float32 is the shortest text that reads back as the same number.
        lines.append(f'  "{int(z)}": ' + json.dumps([[float(str(x)), float(str(y))] for x, y in points]))
    body = "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"
    text = json.dumps(head, indent=1)[:-2] + ',\n "slices": ' + body + "\n}\n"

    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def read_points(
    path: str | Path,
    slice_names: Sequence[str] | None = None,
    *,
    num_slices: int | None = None,
    size: tuple[int, int] | None = None,
) -> SlicePoints:
    """Read a file of points in any of the formats listed on top of this module.

    Args:
        path: the file.
        slice_names: file names of the volume's slices, in order. WDA-Net's JSON needs them: its points belong to file
            names, and those of files that this volume does not have are left out.
        num_slices: number of slices of the volume, for the check; by default as many as there are names.
        size: (H, W) of a slice in pixels, for the check.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown format, a value that is no number, a slice outside the volume or a point outside the image;
            the message names the file, the value and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"points file {path} not found; tools/sample_points.py makes one from labels")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] in ("{", "["):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); was the file cut off?") from error
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


def _from_own_json(path: Path, content: dict[str, Any]) -> SlicePoints:
    if content.get("format") != FORMAT or not isinstance(content.get("slices"), dict):
        raise ValueError(f'{path}: "format" is {content.get("format")!r}, expected {FORMAT!r} with a table "slices"')
    if content.get("version") != VERSION:
        raise ValueError(f"{path}: version {content.get('version')!r}, this release reads version {VERSION}")
    return {_slice_index(path, z): _array(path, z, points) for z, points in content["slices"].items()}


def _is_triple(entry: object) -> bool:
    if isinstance(entry, dict):
        return {"z", "y", "x"} <= entry.keys()
    return isinstance(entry, list) and len(entry) == 3


def _from_triples(path: Path, content: list[Any]) -> SlicePoints:
    rows = [[entry[axis] for axis in "zyx"] if isinstance(entry, dict) else entry for entry in content]
    try:
        array = np.array(rows, dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a list of [z, y, x] that holds something else than numbers") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {array[~np.isfinite(array).all(axis=1)][0]} is not a [z, y, x] of finite numbers")
    slices = np.rint(array[:, 0]).astype(np.int64)
    points = (array[:, :0:-1] + 0.5).astype(np.float32)
    return {int(z): points[slices == z] for z in np.unique(slices)}


def _from_wdanet(path: Path, content: list[Any], slice_names: Sequence[str] | None) -> SlicePoints:
    try:
        # The first element holds width and height, swapped in the published files: not used.
        _, entries = content
        named = [(name, points) for entry in entries for name, points in entry.items()]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: a JSON list that is not WDA-Net's [[size], [{{name: [[row, column]]}}]]") from error
    if slice_names is None:
        raise ValueError(f"{path}: its points belong to file names, but this volume has none (it is not a folder)")
    index = {PurePath(name).stem: z for z, name in enumerate(slice_names)}
    found = {index[stem]: (name, points) for name, points in named if (stem := PurePath(name).stem) in index}
    if not found:
        raise ValueError(
            f"{path}: no file name fits the volume (points of {[n for n, _ in named[:3]]} …, slices "
            f"{list(slice_names[:3])} …); are these the points of another volume?"
        )
    logger.info("%s: points of %d of its %d slices belong to this volume", path, len(found), len(named))
    return {z: _array(path, name, points)[:, ::-1] + np.float32(0.5) for z, (name, points) in sorted(found.items())}


def _from_csv(path: Path, text: str) -> SlicePoints:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = header
    columns = next((c for c in _CSV_COLUMNS if set(c) <= set(header)), None)
    if columns is None:
        raise ValueError(f"{path}: columns {header}; expected {' or '.join(', '.join(c) for c in _CSV_COLUMNS)}")
    rows: dict[int, list[list[float]]] = {}
    for row in reader:
        try:
            z, y, x = (float(row[column]) for column in columns)
            rows.setdefault(int(np.rint(z)), []).append([x + 0.5, y + 0.5])
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {row} holds no slice, row and column") from error
    return {z: _array(path, z, rows[z]) for z in sorted(rows)}


def _slice_index(path: Path, key: str) -> int:
    try:
        return int(key)
    except ValueError as error:
        raise ValueError(f"{path}: slice {key!r} is not a number; keys are slice indices from 0") from error


def _array(path: Path, name: object, points: object) -> np.ndarray:
    try:
        array = np.asarray(points, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, slice {name}: points are not a list of number pairs") from error
    if array.size == 0:
        return np.zeros((0, 2), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError(f"{path}, slice {name}: points are not a list of pairs of finite numbers")
    return array


def _check(path: Path, slice_points: SlicePoints, num_slices: int | None, size: tuple[int, int] | None) -> None:
    for z, points in slice_points.items():
        if z < 0 or (num_slices is not None and z >= num_slices):
            raise ValueError(f"{path}: slice {z}, but the volume has slices 0 to {(num_slices or 0) - 1}")
        if size is None:
            continue
        height, width = size
        outside = ((points < 0) | (points >= (width, height))).any(axis=1)
        if outside.any():
            x, y = points[outside][0]
            raise ValueError(
                f"{path}, slice {z}: point (x={x:g}, y={y:g}) is outside the image of {width}×{height} pixels "
                f"({outside.sum()} of {len(points)} are); are x and y swapped, or is it another resolution?"
            )
