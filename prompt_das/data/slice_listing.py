"""Which slices a volume has: its images paired with their labels, as Detectron2 dicts.

MitoEM's folders pair them by the numbers in the names of the files, all other volumes by their order.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from prompt_das.data.slices import close_volumes, open_once
from prompt_das.data.volume_spec import HELP, VolumeSpec
from prompt_das.volumes.address import Address, Location, is_address
from prompt_das.volumes.intensity import estimate_intensity_range
from prompt_das.volumes.volume import Volume, VolumeError, volume_errors

import numpy as np

logger = logging.getLogger(__name__)

PREPARED_NAME = "mitoem.zarr"  # written by `prompt-das prepare-mitoem` beside `im`


@lru_cache(maxsize=32)
def _estimated_range(path: str, dataset: str | None) -> tuple[float, float]:
    lo, hi = estimate_intensity_range(open_once(path, dataset))
    logger.info("%s: intensities %g..%g are mapped to 0..255 (set intensity_range to choose others)", path, lo, hi)
    return lo, hi


def data_root() -> Path:
    """The folder of the built-in data sets."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


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
        return open_once(path, dataset)
    full = data_root() / path  # an absolute path stays as it is
    if not full.exists():
        root = "" if Path(path).is_absolute() else f" (DETECTRON2_DATASETS is '{data_root()}')"
        raise FileNotFoundError(f"data set '{name}': {full} does not exist{root}. {HELP}")
    return open_once(str(full), dataset)


def _check_sizes(name: str, images: Volume, labels: Volume) -> None:
    if images.shape[1:] != labels.shape[1:]:
        raise ValueError(
            f"data set '{name}': images are {images.shape[1]} x {images.shape[2]} ({images.path}), "
            f"labels {labels.shape[1]} x {labels.shape[2]} ({labels.path})"
        )


def name_some(names: list[str]) -> str:
    """The first names of a list, for messages."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
