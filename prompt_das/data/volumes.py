"""Lazy access to EM volumes: one slice, or one crop of a slice, is read without loading the rest.

Z, H, W: slices, height and width of a volume, in voxels. A box is (y0, x0, y1, x1) in pixels, half open, inside the
slice. Volumes come from a folder of PNG or TIFF slices, a multi-page or tiled TIFF, HDF5, Zarr (OME-Zarr as well) or
a single image, and give the values as they are stored. Open handles stay in the process that opened them: a volume
can be pickled and forked into data loader workers, where it opens its file again at the first read.

One normalisation serves the whole package (`normalize`): grey values are float32 in 0..255. 8-bit volumes keep their
values; anything else is mapped linearly from an intensity range to 0..255 and clipped.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

Box = tuple[int, int, int, int]

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
TIFF_SUFFIXES = (".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_CACHE_BYTES = 64 << 20  # of a folder's decoded slices: a few of 4096 x 4096, all of a small volume


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


def normalize(array: np.ndarray, intensity_range: tuple[float, float] | None = None) -> np.ndarray:
    """Grey values of any type -> float32 in 0..255, of the same shape.

    `intensity_range` (lo, hi) is mapped linearly to (0, 255), values outside are clipped. Without a range, uint8
    passes as it is, and every other type is an error: nobody knows what its values mean.
    """
    if intensity_range is None:
        if array.dtype != np.uint8:
            raise ValueError(
                f"{array.dtype} grey values need an intensity range (lo, hi) that is mapped to 0..255: "
                "set intensity_range, or take estimate_intensity_range(volume)"
            )
        return array.astype(np.float32)
    lo, hi = map(float, intensity_range)
    if not hi > lo:
        raise ValueError(f"intensity_range must be (lo, hi) with lo < hi, not ({lo:g}, {hi:g})")
    return np.clip((array.astype(np.float32) - lo) * (255.0 / (hi - lo)), 0.0, 255.0).astype(np.float32)


def estimate_intensity_range(volume: Volume) -> tuple[float, float]:
    """(lo, hi): the 0.1 and 99.9 percentiles of up to 8 evenly spaced slices."""
    depth = volume.shape[0]
    slices = np.unique(np.linspace(0, depth - 1, min(8, depth)).round().astype(int))
    return intensity_range_of(np.concatenate([volume.read(int(z)).ravel() for z in slices]))


def intensity_range_of(values: np.ndarray) -> tuple[float, float]:
    """(lo, hi): the 0.1 and 99.9 percentiles of the finite ones."""
    lo, hi = np.percentile(values[np.isfinite(values)], (0.1, 99.9))
    return float(lo), float(max(hi, lo + 1e-6))


class Volume:
    """Slices of one size on disk. Subclasses say how to open the file and how to read from it.

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

    def read(self, z: int, box: Box | None = None) -> np.ndarray:
        """Slice z, or a box of it: (h, w), or (h, w, 3) if the slices are stored in colour, in the stored type."""
        depth, height, width = self.shape
        if not 0 <= z < depth:
            raise IndexError(f"{self.path}: slice {z} does not exist, the volume has slices 0..{depth - 1}")
        y0, x0, y1, x1 = box if box is not None else (0, 0, height, width)
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise ValueError(f"{self.path}: box (y0, x0, y1, x1) = {box} is not inside the slice ({height} x {width})")
        return self._read(z, (y0, x0, y1, x1))

    def _handle(self) -> Any:
        # A file handle inherited by a forked worker shares its position with the parent: open again instead.
        if self._opened is None or self._pid != os.getpid():
            self._opened, self._pid = self._open(), os.getpid()
        return self._opened

    def _open(self) -> Any:
        raise NotImplementedError

    def _read(self, z: int, box: Box) -> np.ndarray:
        raise NotImplementedError


class FolderVolume(Volume):
    """One file per slice, in natural order of the names. The last slices decoded are kept."""

    def __init__(self, path: Path, files: Sequence[Path]):
        super().__init__(path)
        self._files = list(files)
        self.slice_names = [file.name for file in self._files]
        first = read_image_file(self._files[0])
        self.shape, self.dtype = (len(self._files), *first.shape[:2]), first.dtype

    def _open(self) -> OrderedDict[int, np.ndarray]:
        return OrderedDict()

    def _read(self, z: int, box: Box) -> np.ndarray:
        cache: OrderedDict[int, np.ndarray] = self._handle()
        if z not in cache:
            array = read_image_file(self._files[z])
            if array.shape[:2] != self.shape[1:] or array.dtype != self.dtype:
                raise ValueError(
                    f"{self._files[z]} is {_describe(array)}, but {self._files[0].name} in the same folder is "
                    f"{self.shape[1]} x {self.shape[2]} {self.dtype}: all slices of a volume must agree"
                )
            cache[z] = array
            while len(cache) > max(1, _CACHE_BYTES // array.nbytes):
                cache.popitem(last=False)
        cache.move_to_end(z)
        y0, x0, y1, x1 = box
        return cache[z][y0:y1, x0:x1].copy()


class TiffVolume(Volume):
    """A multi-page TIFF: uncompressed ones are memory-mapped, of others only the tiles or strips needed are decoded."""

    def __init__(self, path: Path):
        super().__init__(path)
        with tifffile.TiffFile(path) as tif:
            series = tif.series[0]
            shape = series.shape[:-1] if series.axes.endswith("S") else series.shape
            if series.axes.endswith("YX") or series.axes.endswith("YXS"):
                self.shape = _as_3d(shape, path)
            else:
                raise ValueError(f"{path}: expected slices of height x width, found axes {series.axes} {series.shape}")
            self.dtype = np.dtype(series.dtype)

    def _open(self) -> Any:
        tif = tifffile.TiffFile(self.path)
        series = tif.series[0]
        if series.dataoffset is None:
            return tif, list(series.pages)
        colour = series.shape[-1:] if series.axes.endswith("S") else ()
        stored = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        tif.close()
        return np.memmap(self.path, stored, "r", offset=series.dataoffset, shape=(*self.shape, *colour)), None

    def _read(self, z: int, box: Box) -> np.ndarray:
        source, pages = self._handle()
        y0, x0, y1, x1 = box
        if pages is None:
            return np.ascontiguousarray(source[z, y0:y1, x0:x1], dtype=self.dtype)
        page = pages[z] if len(pages) == len(self) else pages[0]  # else: all slices are planes of one page
        if page is None:  # a slice that was never written
            return np.zeros((y1 - y0, x1 - x0), self.dtype)
        key = page.keyframe
        tile_h, tile_w = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
        rows, columns = -(-key.imagelength // tile_h), -(-key.imagewidth // tile_w)
        first = z * rows * columns if len(pages) != len(self) else 0
        indices = [
            first + row * columns + column
            for row in range(y0 // tile_h, (y1 - 1) // tile_h + 1)
            for column in range(x0 // tile_w, (x1 - 1) // tile_w + 1)
        ]
        colour = (key.samplesperpixel,) if key.axes.endswith("S") else ()
        out = np.zeros((y1 - y0, x1 - x0, *colour), self.dtype)
        offsets, counts = ([page.dataoffsets[i] for i in indices], [page.databytecounts[i] for i in indices])
        for data, position in source.filehandle.read_segments(offsets, counts):
            tile, (_, _, y, x, _), _ = key.decode(data, indices[position], jpegtables=key.jpegtables)
            if tile is None:  # a tile that was never written
                continue
            tile = tile[0] if colour else tile[0, ..., 0]
            top, left = max(y, y0), max(x, x0)
            bottom, right = min(y + tile.shape[0], y1), min(x + tile.shape[1], x1)
            out[top - y0 : bottom - y0, left - x0 : right - x0] = tile[top - y : bottom - y, left - x : right - x]
        return out


class ArrayVolume(Volume):
    """A (Z, H, W) or (H, W) array in an HDF5 or Zarr file; leading axes of length 1 are ignored.

    File names of the slices, where they are known, are in the array's attribute `slice_names`.
    """

    def __init__(self, path: Path, dataset: str | None, opener: Any):
        super().__init__(path, dataset)
        self._opener = opener
        array = self._handle()
        self.shape, self.dtype = _as_3d(array.shape, path), np.dtype(array.dtype)
        names = array.attrs.get("slice_names")
        self.slice_names = [str(name) for name in names] if names is not None else None

    def _open(self) -> Any:
        return self._opener(self.path, self.dataset)

    def _read(self, z: int, box: Box) -> np.ndarray:
        array = self._handle()
        y0, x0, y1, x1 = box
        leading = (0,) * (array.ndim - 3) + (z,) if array.ndim > 2 else ()
        return np.asarray(array[(*leading, slice(y0, y1), slice(x0, x1))])


def open_volume(path: str | Path, dataset: str | None = None) -> Volume:
    """Open a volume without reading it. `dataset` is the array inside an HDF5 or Zarr file, if it has several.

    Raises FileNotFoundError for a missing path or an empty folder and ValueError for a format it does not know.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; datasets/README.md says what is expected where")
    if path.is_dir():
        if path.suffix == ".zarr" or any((path / mark).exists() for mark in ("zarr.json", ".zgroup", ".zarray")):
            return ArrayVolume(path, dataset, _open_zarr)
        files = sorted(
            (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."),
            key=lambda file: natural_key(file.name),
        )
        if not files:
            raise FileNotFoundError(f"{path} holds no slices ({', '.join(IMAGE_SUFFIXES)})")
        return FolderVolume(path, files)
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return ArrayVolume(path, dataset, _open_hdf5)
    if suffix in TIFF_SUFFIXES:
        return TiffVolume(path)
    if suffix in IMAGE_SUFFIXES:
        return FolderVolume(path, [path])
    known = ", ".join((*IMAGE_SUFFIXES, *HDF5_SUFFIXES, ".zarr"))
    raise ValueError(f"{path}: '{suffix}' is not a format this package reads; use a folder of slices or one of {known}")


def read_image_file(path: Path) -> np.ndarray:
    if path.suffix.lower() in TIFF_SUFFIXES:
        try:
            array = tifffile.imread(path)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as TIFF: {error}") from error
    else:
        decoded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise ValueError(f"{path} cannot be read as an image: is the file complete?")
        # cv2 gives BGR(A)
        array = np.ascontiguousarray(decoded[..., [2, 1, 0]]) if decoded.ndim == 3 else decoded
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"{path} is {_describe(array)}: expected one grey or RGB slice per file")
    return array


def _open_hdf5(path: Path, dataset: str | None) -> Any:
    import h5py

    file = h5py.File(path, "r")
    if dataset is None:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        dataset = _only(names, path)
    if not hasattr(file.get(dataset), "shape"):
        raise ValueError(f"{path} has no array '{dataset}'; it has {sorted(file)}")
    return file[dataset]


def _open_zarr(path: Path, dataset: str | None) -> Any:
    import zarr

    node: Any = zarr.open(str(path), mode="r")
    if not hasattr(node, "keys"):  # an array, not a group
        return node
    if dataset is None:
        attributes = dict(node.attrs)
        scales = attributes.get("ome", attributes).get("multiscales")
        dataset = scales[0]["datasets"][0]["path"] if scales else _only(sorted(node.array_keys()), path)
    if dataset not in node or not hasattr(node[dataset], "shape"):
        raise ValueError(f"{path} has no array '{dataset}'; it has {sorted(node.array_keys())}")
    return node[dataset]


def _only(names: list[str], path: Path) -> str:
    if len(names) != 1:
        raise ValueError(f"{path} holds the arrays {names}: say which one (`images_dataset` or `labels_dataset`)")
    return names[0]


def _as_3d(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    leading, last = tuple(shape[:-3]), tuple(shape[-3:])
    if len(shape) < 2 or any(n != 1 for n in leading):
        raise ValueError(f"{path}: shape {tuple(shape)} is not (slices, height, width)")
    depth, height, width = (1, *last) if len(last) == 2 else last
    return int(depth), int(height), int(width)


def _describe(array: np.ndarray) -> str:
    return f"{' x '.join(map(str, array.shape))} {array.dtype}"
