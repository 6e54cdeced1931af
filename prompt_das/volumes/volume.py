"""Lazy access to EM volumes: one slice, or one crop of a slice, is read without loading the rest.

Z, H, W: slices, height and width of a volume, in voxels. A box is (y0, x0, y1, x1) in pixels, half open, inside the
slice. Volumes come from a folder of PNG or TIFF slices, a multi-page or tiled TIFF, HDF5, Zarr (OME-Zarr as well) or
a single image, and give the values as they are stored. Open handles stay in the process that opened them: a volume
can be pickled and forked into data loader workers, where it opens its file again at the first read.

Whatever is wrong with the stored data, a truncated file, a damaged chunk, a slice of another size, is a `VolumeError`
that names the file and the slice, whichever library finds it. What cannot be found: chunks of a Zarr or HDF5 array and
tiles of a TIFF that are not there are zeros (or the fill value) by these formats' rules, and pixels stored without a
checksum may be any.
"""

from __future__ import annotations

import logging
import math
import os
import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompt_das.volumes import tiff, zarr_codecs
from prompt_das.volumes.image_files import decode_image, describe
from prompt_das.volumes.memory_limit import require_memory

import cv2
import numpy as np
from tifffile import TiffFile, TiffFileError

logger = logging.getLogger(__name__)

Box = tuple[int, int, int, int]

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
TIFF_SUFFIXES = (".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_CACHE_BYTES = 64 << 20  # of a folder's decoded slices: a few of 4096 x 4096, all of a small volume

# What tifffile, imagecodecs, OpenCV, h5py, Zarr and numcodecs raise on damaged data.
_LIBRARY_ERRORS = (
    *(ValueError, OSError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(MemoryError, EOFError, ImportError, SystemError, struct.error, zlib.error, cv2.error, TiffFileError),
)


class VolumeError(ValueError):
    """Stored data cannot be read: damaged, incomplete, or not what the rest of the volume is. Names file and slice."""


@contextmanager
def volume_errors(what: str) -> Iterator[None]:
    """Whatever goes wrong within while `what` is read becomes a VolumeError."""
    try:
        yield
    except VolumeError:
        raise
    except _LIBRARY_ERRORS as error:
        reason = " ".join(str(error).split())  # in one line
        if type(error) is not ValueError:
            reason = f"{type(error).__name__}: {reason}"
        raise VolumeError(
            f"{what} cannot be read: {reason}. Is the file complete? Copy or convert it again, or leave it out."
        ) from error


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `im2` before `im10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in parts if part]


def decode_rgb_ids(array: np.ndarray) -> np.ndarray:
    """RGB-coded instance ids (..., 3 or 4), uint8 -> (...) uint32: R * 65536 + G * 256 + B. Alpha is ignored."""
    if array.shape[-1] not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(f"RGB-coded ids must be uint8 (..., 3), not {array.dtype} {array.shape}")
    red, green, blue = (array[..., channel].astype(np.uint32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


class Volume(ABC):
    """Slices of one size on disk. Subclasses say how to open the file and how to read from it, with any exception.

    Attributes: `shape` (Z, H, W); `dtype`, of the stored values; `slice_names`, file names of the slices where
    they are known, else None; `path`, `dataset`: where the volume was opened from.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    slice_names: list[str] | None = None

    def __init__(self, path: Path, dataset: str | None = None):
        self.path = path
        self.dataset = dataset
        self._opened: Any = None
        self._pid = -1

    def __repr__(self) -> str:
        inner = f"[{self.dataset}]" if self.dataset else ""
        return f"{type(self).__name__}({self.path}{inner}, shape={self.shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_pid": -1}

    def name_of(self, z: int) -> str:
        """Where slice z is stored, for messages."""
        inner = f"[{self.dataset}]" if self.dataset else ""
        return f"{self.path}{inner}, slice {z}"

    def read(self, z: int, box: Box | None = None) -> np.ndarray:
        """Slice z, or a box of it: (h, w), or (h, w, 3) if the slices are stored in colour, in the stored type.

        Raises VolumeError if the stored data cannot be read, IndexError and ValueError for what does not exist.
        """
        depth, height, width = self.shape
        if not 0 <= z < depth:
            raise IndexError(f"{self.path}: slice {z} does not exist, the volume has slices 0..{depth - 1}")
        y0, x0, y1, x1 = box if box is not None else (0, 0, height, width)
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise ValueError(f"{self.path}: box (y0, x0, y1, x1) = {box} is not inside the slice ({height} x {width})")
        with volume_errors(self.name_of(z)):
            require_memory((y1 - y0) * (x1 - x0) * self.dtype.itemsize)
            return self._read(z, (y0, x0, y1, x1))

    def chunks_written(self) -> tuple[int, int]:
        """(all, those there) of the chunks of an array; what is not there reads as zeros. (0, 0) for other formats."""
        return 0, 0

    def _handle(self) -> Any:
        # A file handle inherited by a forked worker shares its position with the parent: open again instead.
        if self._opened is None or self._pid != os.getpid():
            self._opened, self._pid = self._open(), os.getpid()
        return self._opened

    @abstractmethod
    def _open(self) -> Any: ...

    @abstractmethod
    def _read(self, z: int, box: Box) -> np.ndarray: ...


class FolderVolume(Volume):
    """One file per slice, in natural order of the names. The last slices decoded are kept.

    The first file that can be read gives the size and type of all.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        super().__init__(path)
        self._files = list(files)
        self.slice_names = [file.name for file in self._files]
        first, self._reference = _first_readable(self._files)
        self.shape, self.dtype = (len(self._files), *first.shape[:2]), first.dtype

    def name_of(self, z: int) -> str:
        return f"{self._files[z]} (slice {z})"

    def _open(self) -> OrderedDict[int, np.ndarray]:
        return OrderedDict()

    def _read(self, z: int, box: Box) -> np.ndarray:
        cache: OrderedDict[int, np.ndarray] = self._handle()
        if z not in cache:
            array = decode_image(self._files[z])
            if array.shape[:2] != self.shape[1:] or array.dtype != self.dtype:
                raise VolumeError(
                    f"{self.name_of(z)} is {describe(array)}, but {self._reference.name} in the same folder is "
                    f"{self.shape[1]} x {self.shape[2]} {self.dtype}: all slices of a volume must agree"
                )
            cache[z] = array
            while len(cache) > max(1, _CACHE_BYTES // array.nbytes):
                cache.popitem(last=False)
        cache.move_to_end(z)
        y0, x0, y1, x1 = box
        return cache[z][y0:y1, x0:x1].copy()


class TiffVolume(Volume):
    """A multi-page TIFF: of uncompressed ones only the rows needed are read, of others the tiles or strips."""

    def __init__(self, path: Path):
        super().__init__(path)
        with TiffFile(path) as tif:
            series = tiff.first_series(tif)
            if len(tif.series) > 1 and series is tif.series[0]:
                logger.warning("%s: what follows the first %d pages is not read", path, len(series))
            shape = series.shape[:-1] if series.axes.endswith("S") else series.shape
            if not series.axes.endswith(("YX", "YXS")):
                raise VolumeError(f"{path}: expected slices of height x width, found {series.axes} {series.shape}")
            self.shape, self.dtype = _as_3d(shape, path), np.dtype(series.dtype)

    def _open(self) -> Any:
        tif = TiffFile(self.path)
        series = tiff.first_series(tif)
        return tif, series, list(series.pages) if series.dataoffset is None else None

    def _read(self, z: int, box: Box) -> np.ndarray:
        tif, series, pages = self._handle()
        if pages is None:
            return tiff.read_run(tif, series, z, box)
        if len(pages) == len(self):
            return tiff.read_segments(tiff.written(pages[z]), 0, box)
        return tiff.read_segments(tiff.written(pages[0]), z, box)  # all slices are planes of one page


class ArrayVolume(Volume):
    """A (Z, H, W) or (H, W) array in a file that may hold several; leading axes of length 1 are ignored.

    File names of the slices, where they are known, are in the array's attribute `slice_names`.
    """

    def __init__(self, path: Path, dataset: str | None):
        super().__init__(path, dataset)
        array = self._handle()
        self.shape, self.dtype = _as_3d(array.shape, path), np.dtype(array.dtype)
        require_memory(math.prod(array.chunks or ()) * self.dtype.itemsize)  # chunks are decoded as a whole
        names = array.attrs.get("slice_names")
        self.slice_names = [str(name) for name in names] if names is not None else None

    def _index(self, z: int) -> tuple[int, ...]:
        dimensions = self._handle().ndim
        return (0,) * (dimensions - 3) + (z,) * (dimensions > 2)

    def _read(self, z: int, box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        return np.asarray(self._handle()[(*self._index(z), slice(y0, y1), slice(x0, x1))])


class HDF5Volume(ArrayVolume):
    def _open(self) -> Any:
        import h5py

        file = h5py.File(self.path, "r")
        name = self.dataset
        if name is None:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            name = _only(names, self.path)
        if not hasattr(file.get(name), "shape"):
            raise VolumeError(f"{self.path} has no array '{name}'; it has {sorted(file)}")
        return file[name]

    def chunks_written(self) -> tuple[int, int]:
        array = self._handle()
        if array.chunks is None:
            return 0, 0
        return math.prod(-(-n // chunk) for n, chunk in zip(array.shape, array.chunks)), array.id.get_num_chunks()


class ZarrVolume(ArrayVolume):
    def _open(self) -> Any:
        import zarr

        try:
            array = self._find(zarr.open(str(self.path), mode="r"))
        except getattr(zarr.errors, "MetadataError", ()) as error:  # Zarr 2's, which is a plain Exception
            raise ValueError(f"its metadata is damaged: {error}") from error
        zarr_codecs.require_safe(array)
        return array

    def _find(self, node: Any) -> Any:
        if not hasattr(node, "keys"):  # an array, not a group
            return node
        name = self.dataset
        if name is None:
            attributes = dict(node.attrs)
            scales = attributes.get("ome", attributes).get("multiscales")
            name = scales[0]["datasets"][0]["path"] if scales else _only(sorted(node.array_keys()), self.path)
        if name not in node or not hasattr(node[name], "shape"):
            raise VolumeError(f"{self.path} has no array '{name}'; it has {sorted(node.array_keys())}")
        return node[name]

    def chunks_written(self) -> tuple[int, int]:
        array = self._handle()
        return array.nchunks, array.nchunks_initialized

    def _read(self, z: int, box: Box) -> np.ndarray:
        array = self._handle()
        if zarr_codecs.uses_blosc(array):
            y0, x0, y1, x1 = box
            region = [*((i, i + 1) for i in self._index(z)), (y0, y1), (x0, x1)]
            zarr_codecs.require_whole_chunks(self.path / array.path, array, region)
        return super()._read(z, box)


def open_volume(path: str | Path, dataset: str | None = None) -> Volume:
    """Open a volume without reading it. `dataset` is the array inside an HDF5 or Zarr file, if it has several.

    Raises FileNotFoundError for a missing path or an empty folder, VolumeError for what is not a readable volume.
    """
    path = Path(path).expanduser()
    with volume_errors(str(path)):
        exists, files = path.exists(), _slices_in(path) if path.is_dir() and not _is_zarr(path) else [path]
    if not exists:
        raise FileNotFoundError(f"{path} does not exist; datasets/README.md says what is expected where")
    if not files:
        raise FileNotFoundError(f"{path} holds no slices ({', '.join(IMAGE_SUFFIXES)})")
    with volume_errors(str(path)):
        volume = _open_as_named(path, files, dataset)
    if 0 in volume.shape:
        raise VolumeError(f"{path} is empty: {volume.shape[0]} slices of {volume.shape[1]} x {volume.shape[2]}")
    if volume.dtype.kind not in "buif":
        raise VolumeError(f"{path} holds {volume.dtype}: expected integers, floats or a mask")
    return volume


def _slices_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=lambda file: natural_key(file.name))


def _is_zarr(folder: Path) -> bool:
    return folder.suffix == ".zarr" or any((folder / mark).exists() for mark in ("zarr.json", ".zgroup", ".zarray"))


def _open_as_named(path: Path, files: Sequence[Path], dataset: str | None) -> Volume:
    if path.is_dir():
        return ZarrVolume(path, dataset) if _is_zarr(path) else FolderVolume(path, files)
    if not path.is_file():
        raise ValueError("it is not a file")  # to open a pipe is to wait for ever
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return HDF5Volume(path, dataset)
    if suffix in TIFF_SUFFIXES:
        return TiffVolume(path)
    if suffix in IMAGE_SUFFIXES:
        return FolderVolume(path, files)
    known = ", ".join((*IMAGE_SUFFIXES, *HDF5_SUFFIXES, ".zarr"))
    raise VolumeError(
        f"{path}: '{suffix}' is not a format this package reads; use a folder of slices or one of {known}"
    )


def read_image_file(path: Path) -> np.ndarray:
    """The slice in a PNG, TIFF, BMP or JPEG file: (h, w), or (h, w, 3 or 4) RGB(A). Raises VolumeError."""
    with volume_errors(str(path)):
        return decode_image(path)


def _first_readable(files: Sequence[Path]) -> tuple[np.ndarray, Path]:
    first_error: VolumeError | None = None
    for file in files:
        try:
            return read_image_file(file), file
        except VolumeError as error:
            first_error = first_error or error
    if len(files) == 1 and first_error:
        raise first_error
    raise VolumeError(f"not one of {len(files)} slices can be read: {first_error}") from first_error


def _only(names: list[str], path: Path) -> str:
    if len(names) != 1:
        raise VolumeError(f"{path} holds the arrays {names}: say which one (`images_dataset` or `labels_dataset`)")
    return names[0]


def _as_3d(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    leading, last = tuple(shape[:-3]), tuple(shape[-3:])
    if len(shape) < 2 or any(n != 1 for n in leading):
        raise VolumeError(f"{path}: shape {tuple(shape)} is not (slices, height, width)")
    depth, height, width = (1, *last) if len(last) == 2 else last
    return int(depth), int(height), int(width)
