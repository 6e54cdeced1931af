"""Images and labels in all formats that a volume may have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from entry_point import ALWAYS, IMAGES, LABELS, NAMES, SHAPE, EntryPoint, command
from prompt_das.data.datasets import register_volumes_from_yaml
from prompt_das.data.slices import read_image, read_labels
from prompt_das.volumes.volume import VolumeError

import cv2
import h5py
import numpy as np
import tifffile
import zarr
from detectron2.data import DatasetCatalog


def png(path: Path, array: np.ndarray) -> str:
    path.mkdir()
    for name, plane in zip(NAMES, array, strict=True):
        cv2.imwrite(str(path / name), plane)
    return path.name


def tiff(path: Path, array: np.ndarray) -> str:
    tifffile.imwrite(path.with_suffix(".tif"), array, compression="zlib", photometric="minisblack")
    return f"{path.name}.tif"


def hdf5(path: Path, array: np.ndarray) -> str:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("ids", data=array, chunks=(1, 20, 24), compression="gzip")
    return f"{path.name}.h5"


def zarr_(path: Path, array: np.ndarray) -> str:
    stored = zarr.open(str(path.with_suffix(".zarr")), mode="w", shape=SHAPE, chunks=(1, 20, 24), dtype=array.dtype)
    stored[:] = array
    return f"{path.name}.zarr"


def volume(kind: str, store: Callable[[Path, np.ndarray], str]) -> Callable[[Path, list[str]], list[Path]]:
    def write(folder: Path, tiny: list[str]) -> list[Path]:
        images, labels = store(folder / "images", IMAGES), store(folder / "labels", LABELS)
        (folder / "lab.yaml").write_text(f"name: lab\nimages: {images}\nlabels: {labels}\n")
        target = folder / (images if kind == "images" else labels)
        return sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]

    return write


def read_volume(folder: Path) -> list[Any]:
    """Slices and their labels, None for those that are refused; the check before a run says the same."""
    found: list[Any] = []
    try:
        register_volumes_from_yaml(folder / "lab.yaml")
        for entry in DatasetCatalog.get("lab"):
            for read in (read_image, read_labels):
                try:
                    found.append(read(entry))
                except VolumeError as error:
                    if str(folder) not in str(error):
                        raise
                    found.append(None)
        command("check-data", "--volume", str(folder / "lab.yaml"), "--workers", "1")
    except ValueError:
        if not found or not any(part is None for part in found):
            raise
    if all(part is None for part in found[0::2]) or all(part is None for part in found[1::2]):
        raise ValueError(f"{folder}: nothing can be read")
    return found


def is_volume(found: Any, true: Any) -> bool:
    """Slices and labels of the right size, or nothing; of a container with another shape, of that shape."""
    arrays = [part for part in found if part is not None]
    gray = [part for part in found[0::2] if part is not None]
    return all(array.ndim == 2 for array in arrays) and all(g.min() >= 0 and g.max() <= 255 for g in gray)


VOLUMES = {"PNG": (png, ALWAYS), "TIFF": (tiff, {"cut"}), "HDF5": (hdf5, {"cut"}), "Zarr": (zarr_, {"cut"})}
ENTRY_POINTS = {
    f"{kind}: {name}": EntryPoint(volume(kind, store), read_volume, frozenset(certain), is_volume)
    for kind in ("images", "labels")
    for name, (store, certain) in VOLUMES.items()
}
