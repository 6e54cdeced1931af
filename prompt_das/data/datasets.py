"""Volumes as Detectron2 data sets: a user's own, and whatever a user names as a volume.

Everything is lazy: registering reads nothing, `DatasetCatalog.get(name)` lists the slices and reads their headers
(prompt_das/data/slices.py describes a slice's dict), `read_image` and `read_labels` read one slice or one crop of it.
The names that come with the package are in prompt_das/data/builtin.py.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prompt_das.data.slice_listing import load_slices
from prompt_das.data.volume_spec import (
    HELP,
    VolumeSpec,
    check_voxel_size,
    is_description,
    make_spec,
    read_description,
)
from prompt_das.volumes.address import Address, as_location

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

EVALUATOR_TYPE = "em"

_specs: dict[str, VolumeSpec] = {}


def register_em_volume(
    name: str,
    images: str | Path,
    labels: str | Path | None = None,
    points: str | Path | None = None,
    *,
    voxel_size: Iterable[float] | None = None,
    slices: Iterable[int] | None = None,
    images_dataset: str | None = None,
    labels_dataset: str | None = None,
    intensity_range: Iterable[float] | None = None,
    label_type: str = "instance",
) -> None:
    """Register a volume under a name, for `cfg.DATASETS`. Nothing is read before the data set is used.

    Args:
        images, labels: anything `open_volume` reads. Without labels the volume can only be predicted, or be a
            training target.
        points: a point file (see `prompt_das.volumes.point_files`).
        voxel_size: (z, y, x) in nm; by default what the file's metadata say.
        slices: (start, stop) of the image volume, all by default.
        images_dataset, labels_dataset: array inside an HDF5 or Zarr file.
        intensity_range: intensities (lo, hi) that become 0 and 255; estimated once for other than 8-bit images.
        label_type: "instance" or "semantic".

    Raises ValueError for a name that already means another volume.
    """
    spec = make_spec(
        name,
        images,
        labels,
        points,
        voxel_size=voxel_size,
        slices=slices,
        images_dataset=images_dataset,
        labels_dataset=labels_dataset,
        intensity_range=intensity_range,
        label_type=label_type,
    )
    register_spec(name, spec)


def register_volumes_from_yaml(path: str | Path) -> list[str]:
    """Register the volume that a YAML file describes, see :func:`~prompt_das.data.volume_spec.read_description`.

    Returns its names. Raises as that, and ValueError for a name that already means another volume.
    """
    path = Path(path).expanduser()
    specs = read_description(path)
    for name, spec in specs.items():
        try:
            register_spec(name, spec)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return list(specs)


def names_of(volume: str | Path) -> list[str]:
    """Make what a user names as a volume usable with DatasetCatalog.get: a YAML file, or a registered name.

    Raises as :func:`register_volumes_from_yaml` and :func:`ensure_registered`.
    """
    return register_volumes_from_yaml(volume) if is_description(volume) else ensure_registered(str(volume))


def unregister(name: str) -> None:
    """Forget a registered volume, or a part of one, so that its name is free again."""
    _specs.pop(name, None)
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)


def registered_spec(name: str) -> VolumeSpec:
    """What a registered volume was described as. Raises KeyError for other names."""
    return _specs[name]


def register_config_volumes(cfg: CfgNode, config_file: str | Path | None = None) -> None:
    """Register the volumes of ``DATASETS.VOLUMES``. Raises as :func:`register_volumes_from_yaml`.

    ``config_file``: where ``cfg`` comes from, for messages.
    """
    for path in cfg.DATASETS.VOLUMES:
        try:
            register_volumes_from_yaml(path)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"DATASETS.VOLUMES{f' of {config_file}' if config_file else ''}: {e}") from e


def ensure_registered(names: str | Iterable[str]) -> list[str]:
    """Make every name usable with DatasetCatalog.get and return them as a list.

    `name[start:stop]` means part of the slice list of a registered name (either end may be omitted) and is
    registered here. Raises ValueError for a name that is not registered.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name in DatasetCatalog.list():
            continue
        match = re.fullmatch(r"(.+)\[(\d*):(\d*)\]", name)
        if match is None:
            close = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
            raise ValueError(
                f"unknown data set '{name}'{f', did you mean {close[0]}?' if close else ''} Known volumes: "
                f"{', '.join(sorted(_specs))}. Your own: register_volumes_from_yaml. {HELP}"
            )
        base, start, stop = match.groups()
        ensure_registered(base)
        _register_part(name, base, slice(int(start) if start else None, int(stop) if stop else None))
    return names


def find_volume(
    volume: str | Path,
    *,
    dataset: str | None = None,
    intensity_range: Sequence[float] | None = None,
    voxel_size: Sequence[float] | None = None,
) -> tuple[list[dict[str, Any]], VolumeSpec]:
    """The slices (dicts as in `prompt_das.data.slices`) and the description of whatever a user names as a volume.

    Args:
        volume: a folder of slices, a file, an address, a YAML file that describes one volume, or a registered name.
        dataset, intensity_range, voxel_size: of a folder or file, see `register_em_volume`; a voxel size that is given
            wins over that of a description, which wins over that of the file's metadata.

    Raises FileNotFoundError, ValueError (VolumeError for damaged data) that name what is wrong.
    """
    path = as_location(volume)
    name = str(path) if isinstance(path, Address) else str(volume)
    size = check_voxel_size(name, voxel_size)
    if isinstance(path, Address) or _is_images(path, name):
        spec = make_spec(name, path, images_dataset=dataset, intensity_range=intensity_range, voxel_size=size)
        slices = load_slices(path.name, spec)
        return slices, replace(spec, voxel_size=slices[0]["voxel_size"])
    if dataset or intensity_range:
        raise ValueError(f"{name} is a description, which says itself what the array and the intensity range are")
    names = names_of(volume)
    if len(names) > 1:
        raise ValueError(f"{name} describes the volumes {', '.join(names)}: say which of them")
    slices = DatasetCatalog.get(names[0])
    metadata = MetadataCatalog.get(names[0])
    size = size or slices[0]["voxel_size"]
    spec = VolumeSpec(metadata.images, points=metadata.points, voxel_size=size)
    return [{**dataset_dict, "voxel_size": size} for dataset_dict in slices], spec


def _is_images(path: Path, name: str) -> bool:
    """Whether a text names a file or folder of images, not a description or a registered volume."""
    return not is_description(path) and (path.exists() or os.sep in name or bool(path.suffix))


def register_slices(slices: Sequence[dict[str, Any]], spec: VolumeSpec) -> str:
    """Register what :func:`find_volume` found, without its points, for `cfg.DATASETS` -> its name.

    The name follows from the slices and how they are read: the same ones have it in every process.
    """
    keys = ("file_name", "image_dataset", "slice")
    digest = hashlib.sha256(repr([tuple(dataset_dict[key] for key in keys) for dataset_dict in slices]).encode())
    digest.update(repr((spec.voxel_size, slices[0]["intensity_range"])).encode())
    if "box" in slices[0]:
        digest.update(repr(slices[0]["box"]).encode())
    name = f"{re.sub(r'[^a-zA-Z0-9]+', '_', slices[0]['dataset_name']).strip('_')}_{digest.hexdigest()[:8]}"
    if name not in DatasetCatalog.list():
        named = [{**dataset_dict, "dataset_name": name} for dataset_dict in slices]
        DatasetCatalog.register(name, lambda: named)
        _set_metadata(name, replace(spec, points=None))
    return name


def register_spec(name: str, spec: VolumeSpec) -> None:
    """Register a volume. Raises ValueError for a name that already means another one."""
    if name in _specs:
        if _specs[name] != spec:
            raise ValueError(f"data set '{name}' is already registered as another volume ({_specs[name].images})")
        return
    if name in DatasetCatalog.list():
        raise ValueError(f"'{name}' is already the name of another data set: choose another name")
    _specs[name] = spec
    DatasetCatalog.register(name, lambda: load_slices(name, spec))
    _set_metadata(name, spec)


def _register_part(name: str, base: str, part: slice) -> None:
    def load() -> list[dict[str, Any]]:
        dataset_dicts = DatasetCatalog.get(base)
        if not dataset_dicts[part]:
            raise ValueError(f"'{name}' is empty: '{base}' has {len(dataset_dicts)} slices")
        return [{**dataset_dict, "dataset_name": name} for dataset_dict in dataset_dicts[part]]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**{k: v for k, v in MetadataCatalog.get(base).as_dict().items() if k != "name"})


def _set_metadata(name: str, spec: VolumeSpec) -> None:
    keys = ("voxel_size", "images", "labels", "points", "intensity_range")
    fields = {key: value for key, value in asdict(spec).items() if key in keys}
    MetadataCatalog.get(name).set(evaluator_type=EVALUATOR_TYPE, thing_classes=["mitochondrion"], **fields)
