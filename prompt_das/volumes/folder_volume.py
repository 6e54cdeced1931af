"""A folder of images, one a slice; a single image is a folder of one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from prompt_das.volumes.image_files import DecodedImage, decode_image, describe
from prompt_das.volumes.volume import Box, Volume, VolumeError, volume_errors

import numpy as np

_CACHE_BYTES = 64 << 20  # of decoded slices: a few of 4096 x 4096, all of a small volume


class FolderVolume(Volume):
    """One file per slice, in natural order of the names. The last slices decoded are kept.

    The first file that can be read gives the size and type of all.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        super().__init__(path)
        self._files = list(files)
        self.slice_names = [file.name for file in self._files]
        first, self._reference = _first_readable(self._files)
        self.shape, self.dtype = (len(self._files), *first.array.shape[:2]), first.array.dtype
        self.min_is_white = first.min_is_white

    def name_of(self, z: int) -> str:
        return f"{self._files[z]} (slice {z})"

    def _open(self) -> OrderedDict[int, np.ndarray]:
        return OrderedDict()

    def _read(self, z: int, box: Box) -> np.ndarray:
        cache: OrderedDict[int, np.ndarray] = self._handle()
        if z not in cache:
            array, min_is_white = decode_image(self._files[z])
            if min_is_white != self.min_is_white:
                raise VolumeError(
                    f"{self.name_of(z)} shows 0 {_shade(min_is_white)}, but {self._reference.name} in the same folder "
                    f"shows it {_shade(self.min_is_white)}: all slices of a volume must agree"
                )
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


def read_image_file(path: Path) -> DecodedImage:
    """The slice in a PNG, TIFF, BMP or JPEG file. Raises VolumeError."""
    with volume_errors(str(path)):
        return decode_image(path)


def _shade(white: bool) -> str:
    return "white" if white else "black"


def _first_readable(files: Sequence[Path]) -> tuple[DecodedImage, Path]:
    first_error: VolumeError | None = None
    for file in files:
        try:
            return read_image_file(file), file
        except VolumeError as error:
            first_error = first_error or error
    if len(files) == 1 and first_error:
        raise first_error
    raise VolumeError(f"not one of {len(files)} slices can be read: {first_error}") from first_error
