"""An MRC file (IMOD, SerialEM, tomography) as a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.volumes.array_volume import three_dimensions
from prompt_das.volumes.volume import Box, Volume
from prompt_das.volumes.voxel_size import VoxelSize, to_nanometers

import mrcfile
import numpy as np

IMOD_STAMP, SIGNED_BYTES = 1146047817, 1  # words 39 and 40 of the header, as IMOD writes them


class MRCVolume(Volume):
    """Sections of an MRC file, as they are stored: their first row is what MRC viewers show at the bottom."""

    def __init__(self, path: Path):
        super().__init__(path)
        data = self._handle()[1]
        self.shape, self.dtype = three_dimensions(data.shape, path), data.dtype

    def _open(self) -> tuple[Any, np.ndarray]:
        file = mrcfile.mmap(self.path, mode="r")
        return file, file.data.view(np.uint8) if _holds_unsigned_bytes(file) else file.data

    def _stored_voxel_size(self) -> VoxelSize:
        file, _ = self._handle()
        z, y, x = (to_nanometers(file.voxel_size[axis], "angstrom") for axis in "zyx")
        return z, y, x

    def _read(self, z: int, box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        _, data = self._handle()
        return np.array(data.reshape(self.shape)[z, y0:y1, x0:x1])


def _holds_unsigned_bytes(file: Any) -> bool:
    """Bytes (mode 0) are signed by the standard; programs of before wrote unsigned ones, and IMOD says which."""
    stamp, flags = np.frombuffer(file.header.extra2.tobytes()[40:48], file.header.mode.dtype)
    return file.data.dtype == np.int8 and stamp == IMOD_STAMP and not flags & SIGNED_BYTES
