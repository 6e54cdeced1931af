"""Check a data set: everything that would stop a long run, or spoil it, found before it, all at once.

A problem is an "error" if training or evaluation would stop or use wrong data, else a "warning": unusual, and worth
checking.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import ensure_registered
from prompt_das.data.slices import open_image_volume, read_image, read_labels
from prompt_das.data.sparse_points import find_points_file
from prompt_das.ops.connected_components import MIN_INSTANCE_SIZE, connected_components
from prompt_das.ops.points import outside_image
from prompt_das.volumes.point_files import SlicePoints, read_points
from prompt_das.volumes.volume import Volume, VolumeError

import numpy as np
from detectron2.data import DatasetCatalog

ERROR, WARNING = "error", "warning"
FLAT = 2.0  # standard deviation of intensities (0..255) of a slice that shows hardly anything
CLIPPED = 0.1  # fraction of the pixels at 0 or 255 that an intensity range should not exceed
COVERED = 0.5  # fraction of a slice that mitochondria never cover


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where. Its text starts with the name of the slice or file."""

    severity: str
    text: str


@dataclass
class Report:
    """What a data set holds, as (name, value), and what is wrong with it, worst first."""

    name: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(problem.severity == ERROR for problem in self.problems)


@dataclass(frozen=True)
class _Slice:
    """What was found in a slice; the counts are None where there are no (readable) labels."""

    problems: list[Problem]
    digest: bytes | None = None
    instances: int | None = None
    covered: float | None = None
    ids: frozenset[int] = frozenset()


def check_dataset(
    name: str,
    points: str | Path | None = None,
    progress: Callable[[Iterable[_Slice], int], Iterable[_Slice]] = lambda slices, total: slices,
    workers: int = 4,
) -> Report:
    """Read every slice of a registered data set, its labels and its points.

    Args:
        name: see :func:`prompt_das.data.datasets.ensure_registered`.
        points: file of points; by default the one that the data set was registered with.
        progress: wraps the iterator of slices, for a progress bar, and gets their number.
        workers: threads; each holds a slice.
    """
    report = Report(name)
    try:
        ensure_registered(name)
        dataset_dicts = DatasetCatalog.get(name)
        volume = open_image_volume(dataset_dicts[0]) if dataset_dicts else None
    except (ValueError, OSError) as error:
        report.problems.append(Problem(ERROR, str(error)))
        return report
    if volume is None:
        report.problems.append(Problem(ERROR, f"{name} has no slices"))
        return report

    labeled = dataset_dicts[0]["label_file_name"] is not None
    file = find_points_file(name, points)
    found = _read_points(file, volume, dataset_dicts, report.problems) if file else {}
    with ThreadPoolExecutor(workers) as executor:
        seen = list(
            progress(
                executor.map(lambda dataset_dict: _check_slice(dataset_dict, found), dataset_dicts), len(dataset_dicts)
            )
        )
    report.problems += [problem for one in seen for problem in one.problems]
    report.problems += _duplicates(dataset_dicts, seen) + _unwritten(volume)
    if labeled:
        report.problems += _label_problems(dataset_dicts, seen)
    report.problems.sort(key=lambda problem: problem.severity != ERROR)

    depth, height, width = volume.shape
    report.facts += [
        ("images", f"{volume.path}"),
        ("slices", f"{len(dataset_dicts)} of {depth}, {height} x {width}, {volume.dtype}"),
    ]
    if dataset_dicts[0]["voxel_size"]:
        report.facts.append(("voxel size", "{:g} x {:g} x {:g} nm (z, y, x)".format(*dataset_dicts[0]["voxel_size"])))
    if dataset_dicts[0]["intensity_range"]:
        report.facts.append(
            ("intensities mapped to 0..255", "{:g} ... {:g}".format(*dataset_dicts[0]["intensity_range"]))
        )
    counts = [one.instances for one in seen if one.instances is not None]
    if counts:
        covered = np.mean([one.covered for one in seen if one.covered is not None])
        report.facts += [
            ("labels", f"{dataset_dicts[0]['label_file_name']} ({dataset_dicts[0]['label_type']})"),
            ("instances a slice", f"{np.median(counts):g} (median), {min(counts)} ... {max(counts)}"),
            ("covered by instances", f"{covered:.1%}"),
        ]
    if file:
        report.facts.append(("points", f"{sum(map(len, found.values()))} on {len(found)} slices, {file}"))
    return report


def _check_slice(dataset_dict: dict[str, Any], points: SlicePoints) -> _Slice:
    name, problems = dataset_dict["image_id"], []

    def add(severity: str, text: str) -> None:
        problems.append(Problem(severity, f"{name}: {text}"))

    digest = None
    try:
        image = read_image(dataset_dict)
    except VolumeError as error:
        add(ERROR, str(error))
    else:
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        if image.std() < FLAT:
            add(WARNING, f"shows hardly anything: its intensities have a standard deviation of {image.std():.1f}")
        clipped = np.mean((image <= 0) | (image >= 255))
        if dataset_dict["intensity_range"] is not None and clipped > CLIPPED:
            add(
                WARNING,
                f"{clipped:.0%} of its pixels are outside of the intensity range {dataset_dict['intensity_range']}",
            )
    if dataset_dict["label_file_name"] is None:
        return _Slice(problems, digest)
    try:
        labels = read_labels(dataset_dict)
    except VolumeError as error:
        add(ERROR, f"labels: {error}")
        return _Slice(problems, digest)
    on_label = labels[tuple(np.floor(points.get(dataset_dict["slice"], np.zeros((0, 2)))).astype(int).T[::-1])]
    missed = int(np.sum(on_label == 0))
    if missed:
        add(WARNING, f"{missed} of {len(on_label)} points lie on no instance")
    components = connected_components(labels > 0)
    sizes = np.bincount(components.ravel())[1:]
    if np.any(sizes <= MIN_INSTANCE_SIZE):
        add(WARNING, f"{np.sum(sizes <= MIN_INSTANCE_SIZE)} specks of at most {MIN_INSTANCE_SIZE} px in the labels")
    ids = frozenset(np.unique(labels[labels > 0]).tolist())
    return _Slice(problems, digest, len(sizes), float(np.mean(labels > 0)), ids)


def _read_points(
    file: str | Path, volume: Volume, dataset_dicts: Sequence[dict[str, Any]], problems: list[Problem]
) -> SlicePoints:
    """Points by slice, without those that lie outside, which are problems."""
    try:
        points = read_points(file, volume.slice_names)
    except (ValueError, OSError) as error:
        problems.append(Problem(ERROR, str(error)))
        return {}
    depth, height, width = volume.shape
    used = {dataset_dict["slice"] for dataset_dict in dataset_dicts}
    kept = {}
    for z, here in points.items():
        if z >= depth:
            problems.append(Problem(ERROR, f"{file}: slice {z}, but the volume has slices 0 to {depth - 1}"))
            continue
        outside = outside_image(here, (height, width))
        if outside.any():
            x, y = here[outside][0]
            text = f"{outside.sum()} of {len(here)} points are outside of the image, (x={x:g}, y={y:g}) for example"
            problems.append(Problem(ERROR, f"{file}, slice {z}: {text}; are x and y swapped?"))
        inside = here[~outside]
        twice = len(inside) - len(np.unique(np.floor(inside), axis=0))
        if twice:
            problems.append(Problem(WARNING, f"{file}, slice {z}: {twice} points are there twice, to the pixel"))
        if z in used:
            kept[z] = inside
    if not any(map(len, kept.values())):
        problems.append(Problem(ERROR, f"{file}: no point lies on a slice of this data set"))
    return kept


def _duplicates(dataset_dicts: Sequence[dict[str, Any]], seen: Sequence[_Slice]) -> list[Problem]:
    first: dict[bytes, str] = {}
    problems = []
    for dataset_dict, one in zip(dataset_dicts, seen, strict=True):
        if one.digest is None:
            continue
        same = first.setdefault(one.digest, dataset_dict["image_id"])
        if same != dataset_dict["image_id"]:
            problems.append(Problem(WARNING, f"{dataset_dict['image_id']}: the same image as {same}"))
    return problems


def _label_problems(dataset_dicts: Sequence[dict[str, Any]], seen: Sequence[_Slice]) -> list[Problem]:
    problems = []
    for dataset_dict, one in zip(dataset_dicts, seen, strict=True):
        if one.instances == 0:
            problems.append(Problem(WARNING, f"{dataset_dict['image_id']}: no instance in the labels"))
        if one.covered is not None and one.covered > COVERED:
            text = f"the labels cover {one.covered:.0%} of the slice; is the background 0?"
            problems.append(Problem(WARNING, f"{dataset_dict['image_id']}: {text}"))
    filled = [one for one in seen if one.instances]
    single = all(len(one.ids) == 1 for one in filled) and any(one.instances != 1 for one in filled)
    if dataset_dicts[0]["label_type"] == "instance" and single:
        text = "every slice has a single id for all its instances: set label_type to 'semantic'"
        problems.append(Problem(ERROR, f"{dataset_dicts[0]['label_file_name']}: {text}"))
    if not filled:
        problems.append(Problem(ERROR, f"{dataset_dicts[0]['label_file_name']}: not a single instance in any slice"))
    return problems


def _unwritten(volume: Volume) -> list[Problem]:
    """Missing chunks of a Zarr or HDF5 array, which read as zeros without an error."""
    try:
        total, written = volume.chunks_written()
    except VolumeError as error:
        return [Problem(ERROR, str(error))]
    if written == total:
        return []
    text = f"{total - written} of {total} chunks were never written and read as zeros; was it copied completely?"
    return [Problem(WARNING, f"{volume.path}: {text}")]


def worst(problems: Sequence[Problem], most: int = 20) -> list[Problem]:
    """The first of each severity: a thousand like the first twenty add nothing."""
    counts: Counter[str] = Counter()
    shown = []
    for problem in problems:
        counts[problem.severity] += 1
        if counts[problem.severity] <= most:
            shown.append(problem)
    return shown
