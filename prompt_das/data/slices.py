"""The slices of a volume as Detectron2 dicts, and their pixels.

A slice's dict:
    dataset_name      the registered name
    image_id          unique, e.g. "vnc_train/00"; the same for "vnc_train[0:5]"
    file_name, image_dataset, slice            volume of the image, array inside it or None, index z
    label_file_name, label_dataset, label_slice    the same for the labels (None without labels)
    slice_name        file name of the slice, None if the volume is one file
    height, width     pixels
    box               (y0, x0, y1, x1) of the stored slice that these pixels are; only of a part of the slices
    voxel_size        (z, y, x) in nm: as registered, else of the file's metadata; None if it is not known
    intensity_range   (lo, hi) mapped to 0..255, or None for 8-bit images
    label_type        "instance" (ids) or "semantic" (a mask, whose 8-connected components are the instances)
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prompt_das.ops.connected_components import connected_components
from prompt_das.volumes.address import Address, Location, is_address
from prompt_das.volumes.cropped_volume import CroppedVolume
from prompt_das.volumes.image_files import decode_rgb_ids
from prompt_das.volumes.intensity import estimate_intensity_range, read_preprocessed
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.region import Region
from prompt_das.volumes.volume import Box, Volume, VolumeError, volume_errors

import numpy as np

logger = logging.getLogger(__name__)

PREPARED_NAME = "mitoem.zarr"  # written by `prompt-das prepare-mitoem` beside `im`
HELP = "See datasets/README.md."
_MAX_INT32, _MAX_INT64 = np.iinfo(np.int32).max, np.iinfo(np.int64).max


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


def data_root() -> Path:
    """The folder of the built-in data sets."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def open_image_volume(dataset_dict: dict[str, Any]) -> Volume:
    """The volume that a slice belongs to, opened once per process; of cropped slices the cropped one."""
    return _cropped(_open(dataset_dict["file_name"], dataset_dict["image_dataset"]), dataset_dict)


def open_label_volume(dataset_dict: dict[str, Any]) -> Volume:
    """The volume of a slice's labels, opened once per process. Raises ValueError for a slice without labels."""
    if dataset_dict["label_file_name"] is None:
        raise ValueError(f"{dataset_dict['image_id']}: data set '{dataset_dict['dataset_name']}' has no labels")
    return _cropped(_open(dataset_dict["label_file_name"], dataset_dict["label_dataset"]), dataset_dict)


def _cropped(volume: Volume, dataset_dict: dict[str, Any]) -> Volume:
    box = dataset_dict.get("box")
    return volume if box is None else CroppedVolume(volume, box)


def crop_slices(dataset_dicts: Sequence[dict[str, Any]], region: Region) -> list[dict[str, Any]]:
    """The dicts of a region: z counts the ``dataset_dicts``, y and x their pixels. Slices keep their numbers."""
    y0, x0, y1, x1 = region.box
    size = {"box": region.box, "height": y1 - y0, "width": x1 - x0}
    return [{**dataset_dict, **size} for dataset_dict in dataset_dicts[slice(*region.z)]]


def read_image(dataset_dict: dict[str, Any], box: Box | None = None, scale: float = 1.0) -> np.ndarray:
    """A slice or its box (y0, x0, y1, x1) as the network takes it: float32 in 0..255, ``scale`` times as high and wide.

    Raises VolumeError for a slice that cannot be read or has pixels that are not finite.
    """
    return read_preprocessed(
        open_image_volume(dataset_dict), dataset_dict["slice"], box, dataset_dict["intensity_range"], scale
    )


def read_labels(dataset_dict: dict[str, Any], box: Box | None = None) -> np.ndarray:
    """Instance ids of a slice or of its box, 0 is background: (h, w) int32 (int64 for ids that need it).

    RGB-coded ids are decoded. Raises ValueError for a slice without labels, VolumeError for labels that cannot be read
    or are not ids.
    """
    volume, z = open_label_volume(dataset_dict), dataset_dict["label_slice"]
    array = volume.read(z, box)
    if array.ndim == 3:
        if array.dtype != np.uint8:
            raise VolumeError(f"{volume.name_of(z)}: RGB-coded ids must be uint8, not {array.dtype}; save them as ids")
        array = decode_rgb_ids(array)
    if array.dtype.kind not in "biu":
        raise VolumeError(
            f"{volume.name_of(z)}: labels must be integer ids, not {array.dtype}; save them as uint8, uint16 or uint32"
        )
    if array.dtype.kind == "i" or array.dtype.itemsize >= 4:  # smaller unsigned ids cannot be wrong
        lo, hi = int(array.min()), int(array.max())
        if lo < 0 or hi > _MAX_INT64:
            raise VolumeError(f"{volume.name_of(z)}: ids must be 0..2^63 - 1, found {lo}..{hi}")
        array = array.astype(np.int32 if hi <= _MAX_INT32 else np.int64)
    if dataset_dict["label_type"] == "semantic":
        return connected_components(array > 0)
    return array if array.dtype == np.int64 else array.astype(np.int32)


def close_volumes() -> None:
    """Forget the volumes that are open in this process, and the slices they keep; the next read opens them again."""
    _open.cache_clear()


@lru_cache(maxsize=32)
def _open(path: str, dataset: str | None) -> Volume:
    return open_volume(path, dataset)


@lru_cache(maxsize=32)
def _estimated_range(path: str, dataset: str | None) -> tuple[float, float]:
    lo, hi = estimate_intensity_range(_open(path, dataset))
    logger.info("%s: intensities %g..%g are mapped to 0..255 (set intensity_range to choose others)", path, lo, hi)
    return lo, hi


def load_slices(name: str, spec: VolumeSpec) -> list[dict[str, Any]]:
    """The dicts of a registered volume's slices. Raises FileNotFoundError and ValueError that name what is wrong."""
    close_volumes()  # files may have come or gone since a volume was opened
    images, labels, pairs = _mitoem(name, spec) if spec.mitoem_split else _plain(name, spec)
    intensity_range = spec.intensity_range
    if intensity_range is None and images.dtype != np.uint8:
        intensity_range = _estimated_range(_as_text(images.path), images.dataset)
    if spec.expected is not None and len(pairs) < spec.expected:
        logger.warning("%s: only %d of the %d slices are in %s", name, len(pairs), spec.expected, images.path)
    voxel_size = spec.voxel_size or images.voxel_size
    short_names = _short_names(images.slice_names) if images.slice_names else None
    dataset_dicts = []
    for z, label_z in pairs:
        dataset_dicts.append(
            {
                "dataset_name": name,
                "image_id": f"{name}/{short_names[z] if short_names else f'{z:04d}'}",
                "file_name": _as_text(images.path),
                "image_dataset": images.dataset,
                "slice": z,
                "label_file_name": _as_text(labels.path) if labels else None,
                "label_dataset": labels.dataset if labels else None,
                "label_slice": label_z,
                "slice_name": images.slice_names[z] if images.slice_names else None,
                "height": images.shape[1],
                "width": images.shape[2],
                "voxel_size": voxel_size,
                "intensity_range": intensity_range,
                "label_type": spec.label_type,
            }
        )
    return dataset_dicts


def _as_text(path: Location) -> str:
    """A path or an address as `open_volume` takes it; str() would take the credentials from an address."""
    return path if isinstance(path, Address) else str(path)


def _short_names(names: Sequence[str]) -> list[str]:
    """File names without their endings, except where these alone tell two slices apart."""
    stems = Counter(Path(name).stem for name in names)
    return [name if stems[Path(name).stem] > 1 else Path(name).stem for name in names]


# Images, labels, pairs (z of the image, z of its labels).
_Slices = tuple[Volume, "Volume | None", Sequence[tuple[int, "int | None"]]]


def _plain(name: str, spec: VolumeSpec) -> _Slices:
    images = _open_named(name, spec.images, spec.images_dataset)
    start, stop = spec.slices or (0, images.shape[0])
    if stop > images.shape[0]:
        raise ValueError(
            f"data set '{name}': slices [{start}, {stop}] but {images.path} has only {images.shape[0]} slices"
        )
    if spec.labels is None:
        return images, None, [(z, None) for z in range(start, stop)]
    labels = _open_named(name, spec.labels, spec.labels_dataset)
    _check_sizes(name, images, labels)
    if images.shape[0] != labels.shape[0]:
        image_names, label_names = images.slice_names or [], labels.slice_names or []
        labeled, seen = {Path(file).stem for file in label_names}, {Path(file).stem for file in image_names}
        alone = [file for file in image_names if Path(file).stem not in labeled]
        alone += [file for file in label_names if Path(file).stem not in seen]
        raise ValueError(
            f"data set '{name}': {labels.path} has {labels.shape[0]} label slices for the {images.shape[0]} images of "
            f"{images.path}{f'; without a partner of the same name: {name_some(alone)}' if alone else ''}. {HELP}"
        )
    if spec.label_type == "instance":
        _warn_of_mask(name, labels, (start + stop) // 2)
    return images, labels, [(z, z) for z in range(start, stop)]


def _warn_of_mask(name: str, labels: Volume, z: int) -> None:
    """A mask read as ids makes one instance of all, and one point where many were meant."""
    try:
        foreground = labels.read(z)
    except VolumeError:  # said where it is used
        return
    foreground = foreground[foreground > 0]
    if foreground.size and foreground.min() == foreground.max():
        logger.warning(
            "data set '%s': slice %d of %s holds the single id %g; "
            "if that is a mask of all instances, set label_type to 'semantic'",
            *(name, z, labels.path, foreground[0].item()),
        )


def _mitoem(name: str, spec: VolumeSpec) -> _Slices:
    """MitoEM's layout: labels are matched to images by the slice number in the file name; crops may have few slices."""
    prepared = _prepared(data_root() / spec.images / PREPARED_NAME)
    if prepared is not None:
        images, labels = (_open_named(name, f"{spec.images}/{PREPARED_NAME}", key) for key in ("images", "labels"))
        if spec.mitoem_split not in prepared["splits"]:
            raise FileNotFoundError(f"data set '{name}': {images.path} was prepared without these labels. {HELP}")
        return images, labels, [(z, z) for z in prepared["splits"][spec.mitoem_split]]
    images = _open_named(name, f"{spec.images}/im", None)
    labels = _open_named(name, f"{spec.images}/mito-{spec.mitoem_split}-v2", None)
    _check_sizes(name, images, labels)
    image_of, label_of = _by_number(images), _by_number(labels)
    lost = [file for number, file in label_of.items() if number not in image_of]
    if lost:
        raise FileNotFoundError(f"data set '{name}': {images.path} has no image for {name_some(lost)}. {HELP}")
    covered = range(min(label_of), max(label_of) + 1)
    gaps = [file for number, file in image_of.items() if number in covered and number not in label_of]
    if gaps:
        raise ValueError(f"data set '{name}': {labels.path} has no label for {name_some(gaps)}. {HELP}")
    z_of = {number: z for z, number in enumerate(image_of)}
    return images, labels, [(z_of[number], label_z) for label_z, number in enumerate(label_of)]


def _prepared(path: Path) -> dict[str, Any] | None:
    """What `prompt-das prepare-mitoem` noted when it had finished, None if it has not."""
    if not path.is_dir():
        return None
    import zarr

    with volume_errors(str(path)):
        attributes = dict(zarr.open_group(str(path), mode="r").attrs)
    if not attributes.get("complete"):
        logger.warning("%s is not complete and is not used: start `prompt-das prepare-mitoem` again to finish it", path)
        return None
    return attributes


def slice_number(file_name: str) -> int:
    """The last number in a file name: 399 for `seg0399.tif`."""
    numbers = re.findall(r"\d+", Path(file_name).stem)
    if not numbers:
        raise ValueError(f"{file_name}: no slice number in the file name. {HELP}")
    return int(numbers[-1])


def _by_number(volume: Volume) -> dict[int, str]:
    return {slice_number(file): file for file in volume.slice_names or []}


def _open_named(name: str, path: str, dataset: str | None) -> Volume:
    if is_address(path):
        return _open(path, dataset)
    full = data_root() / path  # an absolute path stays as it is
    if not full.exists():
        root = "" if Path(path).is_absolute() else f" (DETECTRON2_DATASETS is '{data_root()}')"
        raise FileNotFoundError(f"data set '{name}': {full} does not exist{root}. {HELP}")
    return _open(str(full), dataset)


def _check_sizes(name: str, images: Volume, labels: Volume) -> None:
    if images.shape[1:] != labels.shape[1:]:
        raise ValueError(
            f"data set '{name}': images are {images.shape[1]} x {images.shape[2]} ({images.path}), "
            f"labels {labels.shape[1]} x {labels.shape[2]} ({labels.path})"
        )


def name_some(names: list[str]) -> str:
    """The first names of a list, for messages."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
