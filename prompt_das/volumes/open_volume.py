"""A path or an address -> the volume that is there, in whatever format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompt_das.utils.natural_sort import natural_key
from prompt_das.volumes.address import Address, as_location
from prompt_das.volumes.folder_volume import FolderVolume
from prompt_das.volumes.hdf5_volume import HDF5Volume
from prompt_das.volumes.memory_limit import require_slices
from prompt_das.volumes.mrc_volume import MRCVolume
from prompt_das.volumes.tiff_volume import TiffVolume
from prompt_das.volumes.volume import Volume, VolumeError, volume_errors
from prompt_das.volumes.zarr_volume import ZarrVolume

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
TIFF_SUFFIXES = (".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
MRC_SUFFIXES = (".mrc", ".rec", ".map")


def open_volume(path: str | Path, dataset: str | None = None) -> Volume:
    """Open a volume without reading it. `dataset` is the array inside an HDF5 or Zarr file, if it has several.

    `path` may be an address as well (https://, s3://, gs://), of a Zarr.

    Raises FileNotFoundError for a missing path or an empty folder, VolumeError for what is not a readable volume,
    RemoteError for an address whose data are out of reach.
    """
    location = as_location(path)
    files = [] if isinstance(location, Address) else _files_at(location)
    with volume_errors(str(location)):
        if isinstance(location, Address):
            volume: Volume = ZarrVolume(location, dataset)
        else:
            volume = _open_by_suffix(location, files, dataset)
        require_slices(len(volume))
    if 0 in volume.shape:
        raise VolumeError(f"{location} is empty: {volume.shape[0]} slices of {volume.shape[1]} x {volume.shape[2]}")
    if volume.dtype.kind not in "buif":
        raise VolumeError(f"{location} holds {volume.dtype}: expected integers, floats or a mask")
    return volume


def _files_at(path: Path) -> list[Path]:
    """The slices of a folder; else the path itself. Raises FileNotFoundError if nothing is there."""
    with volume_errors(str(path)):
        exists, files = path.exists(), _slices_in(path) if path.is_dir() and not _is_zarr(path) else [path]
    if not exists:
        raise FileNotFoundError(f"{path} does not exist; datasets/README.md says what is expected where")
    if not files:
        raise FileNotFoundError(f"{path} holds no slices ({', '.join(IMAGE_SUFFIXES)})")
    return files


def _slices_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=lambda file: natural_key(file.name))


def _is_zarr(folder: Path) -> bool:
    return folder.suffix == ".zarr" or any((folder / mark).exists() for mark in ("zarr.json", ".zgroup", ".zarray"))


def _open_by_suffix(path: Path, files: Sequence[Path], dataset: str | None) -> Volume:
    if path.is_dir():
        return ZarrVolume(path, dataset) if _is_zarr(path) else FolderVolume(path, files)
    if not path.is_file():
        raise ValueError("it is not a file")  # opening a pipe would wait without end
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return HDF5Volume(path, dataset)
    if suffix in MRC_SUFFIXES:
        return MRCVolume(path)
    if suffix in TIFF_SUFFIXES:
        return TiffVolume(path)
    if suffix in IMAGE_SUFFIXES:
        return FolderVolume(path, files)
    known = ", ".join((*IMAGE_SUFFIXES, *HDF5_SUFFIXES, *MRC_SUFFIXES, ".zarr"))
    raise VolumeError(
        f"{path}: '{suffix}' is not a format this package reads; use a folder of slices or one of {known}"
    )
