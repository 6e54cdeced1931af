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

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from prompt_das.ops.connected_components import connected_components
from prompt_das.volumes.cropped_volume import CroppedVolume
from prompt_das.volumes.image_files import decode_rgb_ids
from prompt_das.volumes.intensity import read_preprocessed
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.region import Region
from prompt_das.volumes.volume import Box, Volume, VolumeError

import numpy as np

_MAX_INT32, _MAX_INT64 = np.iinfo(np.int32).max, np.iinfo(np.int64).max


def open_image_volume(dataset_dict: dict[str, Any]) -> Volume:
    """The volume that a slice belongs to, opened once per process; of cropped slices the cropped one."""
    return _cropped(open_once(dataset_dict["file_name"], dataset_dict["image_dataset"]), dataset_dict)


def open_label_volume(dataset_dict: dict[str, Any]) -> Volume:
    """The volume of a slice's labels, opened once per process. Raises ValueError for a slice without labels."""
    if dataset_dict["label_file_name"] is None:
        raise ValueError(f"{dataset_dict['image_id']}: data set '{dataset_dict['dataset_name']}' has no labels")
    return _cropped(open_once(dataset_dict["label_file_name"], dataset_dict["label_dataset"]), dataset_dict)


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
    open_once.cache_clear()


@lru_cache(maxsize=32)
def open_once(path: str, dataset: str | None) -> Volume:
    """A volume, opened once per process."""
    return open_volume(path, dataset)
