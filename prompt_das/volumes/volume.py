"""A volume on disk: one slice, or one crop of a slice, is read without loading the rest.

Z, H, W: slices, height and width of a volume, in voxels. A box is (y0, x0, y1, x1) in pixels, half open, inside the
slice; h, w are its height and width. Volumes give the values as they are stored. Open handles stay in the process that
opened them: a volume can be pickled and forked into data loader workers, where it opens its file again at the first
read. :mod:`prompt_das.volumes.open_volume` opens one, whatever its format.

Whatever is wrong with the stored data, a truncated file, a damaged chunk, a slice of another size, is a `VolumeError`
that names the file and the slice, whichever library finds it. What cannot be found: chunks of a Zarr or HDF5 array and
tiles of a TIFF that are not there are zeros (or the fill value) by these formats' rules, and pixels stored without a
checksum may be any.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from prompt_das.volumes.address import Location
from prompt_das.volumes.memory_limit import require_memory
from prompt_das.volumes.voxel_size import VoxelSize, plausible

import cv2
import numpy as np
from tifffile import TiffFileError

logger = logging.getLogger(__name__)

Box = tuple[int, int, int, int]

# What tifffile, imagecodecs, OpenCV, h5py, Zarr and numcodecs raise on damaged data.
_LIBRARY_ERRORS = (
    *(ValueError, OSError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(MemoryError, EOFError, ImportError, SystemError, struct.error, zlib.error, cv2.error, TiffFileError),
)


class VolumeError(ValueError):
    """Stored data cannot be read: damaged, incomplete, or not what the rest of the volume is. Names file and slice."""


class RemoteError(OSError):
    """Data at an address are out of reach: no answer, no permission, or they are gone. Names the address.

    Unlike a VolumeError it is nothing about one slice: the next one would fail as well, and later all may be readable.
    """


@contextmanager
def volume_errors(what: str) -> Iterator[None]:
    """Whatever goes wrong within while `what` is read becomes a VolumeError, but for a RemoteError."""
    try:
        yield
    except (VolumeError, RemoteError):
        raise
    except _LIBRARY_ERRORS as error:
        reason = " ".join(str(error).split())  # in one line
        if type(error) is not ValueError:
            reason = f"{type(error).__name__}: {reason}"
        raise VolumeError(
            f"{what} cannot be read: {reason}. Is the file complete? Copy or convert it again, or leave it out."
        ) from error


class Volume(ABC):
    """Slices of one size on disk. Subclasses say how to open the file and how to read from it, with any exception.

    Attributes: `shape` (Z, H, W); `dtype`, of the stored values; `slice_names`, file names of the slices where
    they are known, else None; `min_is_white`: whether the smallest value is shown white (a TIFF may say so), the values
    stay as stored; `path`, a path or an address, and `dataset`: where the volume was opened from.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    slice_names: list[str] | None = None
    min_is_white = False

    def __init__(self, path: Location, dataset: str | None = None):
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
        """Slice z, or a box of it: (h, w), or (h, w, 3) if the slices are stored in color, in the stored type.

        Raises VolumeError if the stored data cannot be read, RemoteError if their server cannot be reached, IndexError
        and ValueError for what does not exist.
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

    @cached_property
    def voxel_size(self) -> VoxelSize | None:
        """(z, y, x) in nm by the file's own metadata; None where they do not say, are damaged, or cannot be true."""
        try:
            with volume_errors(f"the voxel size of {self.path}"):
                return plausible(self._stored_voxel_size())
        except VolumeError as error:
            logger.debug("%s", error)
            return None

    def chunks_written(self) -> tuple[int, int]:
        """(all, those there) of the chunks of an array; what is not there reads as zeros. (0, 0) for other formats."""
        return 0, 0

    def documents(self) -> dict[str, str]:
        """SHA-256 of the files of metadata of a volume at an address; {} for a volume on this machine."""
        return {}

    def _handle(self) -> Any:
        # A file handle inherited by a forked worker shares its position with the parent: open again instead.
        if self._opened is None or self._pid != os.getpid():
            self._opened, self._pid = self._open(), os.getpid()
        return self._opened

    def _stored_voxel_size(self) -> Sequence[float] | None:
        """(z, y, x) in nm as it is stored, nan where that is no length; any exception means that it is not known."""
        return None

    @abstractmethod
    def _open(self) -> Any: ...

    @abstractmethod
    def _read(self, z: int, box: Box) -> np.ndarray: ...
