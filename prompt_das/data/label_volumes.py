"""Label volumes of any tool, and the truth that they are compared with.

A label volume is written as ``path`` or ``path::array``: whatever `open_volume` reads, and the array inside an HDF5 or
Zarr file where it has several. The truth may also be a YAML file that describes a volume, or a registered name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import ensure_registered, register_volumes_from_yaml
from prompt_das.data.slices import close_volumes, open_label_volume, read_image, read_labels
from prompt_das.data.volume_spec import is_description
from prompt_das.volumes.label_array import label_array
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import VolumeError

import numpy as np
from detectron2.data import DatasetCatalog

ARRAY = "::"  # between a path and the array inside the file


@dataclass(frozen=True)
class LabelVolume:
    """Slices of labels, none of which is in memory; Z, H, W: their number, height and width.

    Attributes:
        name: as it was typed.
        slices: dicts as in `prompt_das.data.slices`, those of a file without an image.
    """

    name: str
    slices: list[dict[str, Any]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, H, W)."""
        return len(self.slices), *open_label_volume(self.slices[0]).shape[1:]

    @property
    def paths(self) -> list[Path]:
        """Files and folders that are read: of the labels, and of the image if there is one."""
        return [Path(self.slices[0][key]) for key in ("label_file_name", "file_name") if self.slices[0].get(key)]

    @property
    def is_mask(self) -> bool:
        """Whether it is described as a mask, whose ids mean nothing beyond a slice."""
        return self.slices[0]["label_type"] == "semantic"

    def read(self, z: int) -> np.ndarray:
        """Ids of slice z: (H, W) int32 or int64. Raises VolumeError."""
        return read_labels(self.slices[z])

    def image(self, z: int) -> np.ndarray | None:
        """The image of slice z, (H, W) float32 in 0..255, or None. Raises VolumeError."""
        return read_image(self.slices[z]) if "file_name" in self.slices[z] else None


def open_labels(name: str) -> LabelVolume:
    """Open the label volume at ``path`` or ``path::array``.

    Raises FileNotFoundError, VolumeError: there is none, or it does not hold integers.
    """
    path, _, array = name.partition(ARRAY)
    if not path or not Path(path).expanduser().exists():
        raise FileNotFoundError(
            f"{path or repr(name)} does not exist; a label volume is a TIFF, HDF5, Zarr or folder of slices"
        )
    close_volumes()  # files may have come or gone since a volume was opened
    volume = open_volume(path, array or label_array(path))
    common = {
        "dataset_name": name,
        "label_file_name": str(volume.path),
        "label_dataset": volume.dataset,
        "label_type": "instance",
    }
    slices = [{**common, "image_id": f"{name}/{z:04d}", "label_slice": z} for z in range(len(volume))]
    return _require_integers(LabelVolume(name, slices))


def open_truth(name: str) -> LabelVolume:
    """Open the labels of a YAML file that describes a volume, of a registered name, or at a path as above.

    ``volume.yaml::part`` is one of several parts that a description names.

    Raises FileNotFoundError, ValueError that name what is wrong.
    """
    path, _, part = name.partition(ARRAY)
    if is_description(path):
        names = register_volumes_from_yaml(path)
        if (part and part not in names) or (not part and len(names) > 1):
            choices = " or ".join(f"{path}{ARRAY}{one}" for one in names)
            raise ValueError(f"{path} describes the volumes {', '.join(names)}: say which one, as {choices}")
        registered = part or names[0]
    elif Path(path).expanduser().exists() or os.sep in name or Path(path).suffix or part:
        return open_labels(name)
    else:
        registered = ensure_registered(name)[0]
    slices = DatasetCatalog.get(registered)
    if slices[0]["label_file_name"] is None:
        raise ValueError(f"{name} has no labels to compare with: add `labels: PATH` to its description")
    return _require_integers(LabelVolume(name, slices))


def require_comparable(truth: LabelVolume, predictions: Sequence[LabelVolume]) -> None:
    """Check whatever can be wrong with label volumes before they are compared.

    Types that can hold negative or too large ids are read as a whole, of others no more than is needed.

    Raises:
        ValueError: another shape than the truth's, a negative id, or a truth without a single instance.
    """
    for volume in predictions:
        if volume.shape != truth.shape:
            raise ValueError(
                f"{volume.name} has the shape {_text(volume.shape)} and the truth, {truth.name}, {_text(truth.shape)} "
                "(slices x height x width): crop or resample one to the voxels of the other"
            )
    for volume in (truth, *predictions):
        dtype = open_label_volume(volume.slices[0]).dtype
        if dtype.kind == "i" or dtype.itemsize == 8:
            for z in range(len(volume.slices)):
                volume.read(z)  # raises for ids that are none
    if not any((truth.read(z) > 0).any() for z in range(len(truth.slices))):
        raise ValueError(f"the truth, {truth.name}, is empty: all labels are 0, so there is nothing to compare with")


def short_names(names: Sequence[str]) -> list[str]:
    """Names for the columns of a table: what the last parts of the paths say, as many as tell all apart.

    Raises:
        ValueError: a name comes twice.
    """
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"{twice[0]} is given twice; name each prediction once")
    parts = [_parts(name) for name in names]
    for length in range(1, max(map(len, parts))):
        short = ["/".join(one[-length:]) for one in parts]
        if len(set(short)) == len(short):
            return short
    return list(names)


def _parts(name: str) -> list[str]:
    """Parts of a path; the array inside the file belongs to the last."""
    path, separator, array = name.partition(ARRAY)
    *folders, file = Path(path).parts or ("",)
    return [*folders, f"{file}{separator}{array}"]


def _require_integers(volume: LabelVolume) -> LabelVolume:
    stored = open_label_volume(volume.slices[0])
    if stored.dtype.kind not in "bui":
        raise VolumeError(
            f"{volume.name} holds {stored.dtype}, and labels are integers: save it as uint8, uint16 or uint32, or "
            "segment it first if these are probabilities"
        )
    return volume


def _text(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
