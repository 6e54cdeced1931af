"""How a volume is described, in arguments or in a YAML file: where its files lie, and how they are read.

Nothing is opened here: a description is checked as far as that goes without its files.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.config.yaml_loader import read_yaml
from prompt_das.data.physical_scale import require_nanometers
from prompt_das.volumes.address import Address, Location, as_location, is_address

HELP = "See datasets/README.md."
_YAML_KEYS = (
    "name", "images", "labels", "points", "voxel_size", "splits",
    "images_dataset", "labels_dataset", "intensity_range", "label_type",
)  # fmt: skip
_TEXT_KEYS = ("images", "labels", "points", "images_dataset", "labels_dataset", "label_type")
_NAME = re.compile(r"[^\W_][^/\\[\]\0\n]*")


@dataclass(frozen=True)
class VolumeSpec:
    """Where a registered volume lies: a path, of which a relative one is under `data_root()`, or an address."""

    images: str
    labels: str | None = None
    points: str | None = None
    voxel_size: tuple[float, float, float] | None = None  # (z, y, x) in nm; None: what the file's metadata say
    slices: tuple[int, int] | None = None  # [start, stop) of the image volume
    images_dataset: str | None = None
    labels_dataset: str | None = None
    intensity_range: tuple[float, float] | None = None
    label_type: str = "instance"
    mitoem_split: str | None = None  # "train" or "val": MitoEM's layout, `images` is the folder that holds `im`
    expected: int | None = None  # slices of a complete data set; fewer are a part of it and worth a warning


def make_spec(
    name: str,
    images: Location | str,
    labels: Location | str | None = None,
    points: Location | str | None = None,
    *,
    voxel_size: Iterable[float] | None = None,
    slices: Iterable[int] | None = None,
    images_dataset: str | None = None,
    labels_dataset: str | None = None,
    intensity_range: Iterable[float] | None = None,
    label_type: str = "instance",
) -> VolumeSpec:
    """Check the description of a volume, whose arguments are those of `register_em_volume`.

    Raises ValueError for what makes no sense; its message begins with ``name``.
    """
    if label_type not in ("instance", "semantic"):
        raise ValueError(f"{name}: label_type must be 'instance' or 'semantic', not {label_type!r}")
    return VolumeSpec(
        images=_absolute(images),
        labels=_absolute(labels) if labels is not None else None,
        points=_absolute(points) if points is not None else None,
        voxel_size=check_voxel_size(name, voxel_size),
        slices=_check_slices(name, slices),
        images_dataset=images_dataset,
        labels_dataset=labels_dataset,
        intensity_range=_check_intensity_range(name, intensity_range),
        label_type=label_type,
    )


def is_description(volume: str | Path) -> bool:
    """Whether what a user names as a volume is a YAML file that describes one."""
    return Path(volume).suffix.lower() in (".yaml", ".yml")


def read_description(path: str | Path) -> dict[str, VolumeSpec]:
    """Read the volume that a YAML file describes (datasets/README.md has an example), or its splits, by name.

    Keys: name, images, voxel_size (z, y, x in nm), and if they apply labels, points, splits, images_dataset,
    labels_dataset, intensity_range, label_type. Paths are relative to the YAML file. With
    `splits: {train: [0, 80], val: [80, 100]}` the names are `name_train` and `name_val`, else just `name`.

    Raises FileNotFoundError for no such file, ValueError for what makes no sense; both name the file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {HELP}")
    description = read_yaml(path)
    if not isinstance(description, dict):
        raise ValueError(f"{path} must hold `key: value` lines. {HELP}")
    unknown = sorted(map(str, set(description) - set(_YAML_KEYS)))
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; known are {', '.join(_YAML_KEYS)}")
    missing = [key for key in ("name", "images") if description.get(key) is None]
    if missing:
        raise ValueError(f"{path}: `{missing[0]}` is missing. {HELP}")
    name, splits = str(description.pop("name")), description.pop("splits", None)
    for key in _TEXT_KEYS:
        value = description.get(key)
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise ValueError(f"{path}: {key} must be text, not {value!r:.100}")
    for key in ("images", "labels", "points"):
        value = description.get(key)
        if value is not None and not is_address(value):
            description[key] = path.resolve().parent / os.path.expanduser(value)  # as it is for an unknown ~user
    if splits is None:
        splits = {"": None}
    elif not isinstance(splits, dict) or not splits:
        raise ValueError(f"{path}: splits must be like {{train: [0, 80], val: [80, 100]}}, not {splits!r:.100}")
    specs = {}
    for split, slices in splits.items():
        full_name = f"{name}_{split}" if split else name
        if not _NAME.fullmatch(full_name):  # it becomes the name of folders
            raise ValueError(f"{path}: a name begins with a letter or digit and has no / or [, not {full_name!r:.100}")
        try:
            specs[full_name] = make_spec(full_name, slices=slices, **description)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return specs


def check_voxel_size(name: str, values: Iterable[float] | None) -> tuple[float, float, float] | None:
    """A voxel size as three numbers. Raises ValueError, with the volume's ``name``, for what cannot be nanometers."""
    size = _check_numbers(name, "voxel_size", values, 3)
    if size is not None and min(size) <= 0:
        raise ValueError(f"{name}: voxel_size must be positive, not {size}")
    if size is not None:
        require_nanometers(size, name)
    return size


def _check_intensity_range(name: str, values: Iterable[float] | None) -> tuple[float, float] | None:
    lo_hi = _check_numbers(name, "intensity_range", values, 2)
    if lo_hi is not None and lo_hi[0] == lo_hi[1]:
        raise ValueError(f"{name}: intensity_range is {lo_hi}; what becomes black and what becomes white must differ")
    return lo_hi


def _check_slices(name: str, slices: Iterable[int] | None) -> tuple[int, int] | None:
    if slices is None:
        return None
    start, stop = _check_numbers(name, "slices", slices, 2)
    if start != int(start) or stop != int(stop) or not 0 <= start < stop:
        raise ValueError(f"{name}: slices must be whole numbers 0 <= start < stop, not [{start:g}, {stop:g}]")
    return int(start), int(stop)


def _check_numbers(name: str, key: str, values: Iterable[float] | None, count: int) -> Any:
    if values is None:
        return None
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: {key} must be {count} numbers, not {values!r:.100}")
    return numbers


def _absolute(path: Location | str) -> str:
    location = as_location(path)
    if isinstance(location, Address):
        return location
    return os.path.abspath(location)
