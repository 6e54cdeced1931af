"""An MRC file (IMOD, SerialEM, tomography) as a volume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from prompt_das.volumes.array_volume import three_dimensions
from prompt_das.volumes.volume import Box, Volume
from prompt_das.volumes.voxel_size import VoxelSize, to_nanometers

import numpy as np
from mrcfile import utils
from mrcfile.constants import MAP_ID
from mrcfile.dtypes import HEADER_DTYPE

IMOD_STAMP, SIGNED_BYTES = 1146047817, 1  # words 39 and 40 of the header, as IMOD writes them
AXES = (
    (1, 2, 3),
    (0, 0, 0),
)  # columns, rows and sections are x, y and z; zeros are those of a program that left it out


class MRCHeader(NamedTuple):
    """What the header of a file says.

    Attributes:
        shape: of the stored array, sections last but two.
        offset: of its first byte in the file.
        voxel_size: (z, y, x) in nm, nan where the file gives none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    voxel_size: VoxelSize


class MRCVolume(Volume):
    """Sections of an MRC file, as they are stored: their first row is what MRC viewers show at the bottom.

    Rows are read, not mapped: a file that is cut off while it is mapped ends the process.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        header: MRCHeader = self._handle()
        self.shape, self.dtype = three_dimensions(header.shape, path), header.dtype

    def _open(self) -> MRCHeader:
        return read_header(Path(self.path))

    def _stored_voxel_size(self) -> VoxelSize:
        header: MRCHeader = self._handle()
        return header.voxel_size

    def _read(self, z: int, box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        _, height, width = self.shape
        start = self._handle().offset + (z * height + y0) * width * self.dtype.itemsize
        rows = np.fromfile(Path(self.path), self.dtype, (y1 - y0) * width, offset=start)
        return rows.reshape(y1 - y0, width)[:, x0:x1].copy()


def read_header(path: Path) -> MRCHeader:
    """Read the header and compare what it claims with the size of the file.

    Raises:
        ValueError: it is no header, the file is shorter than it says, or its axes are exchanged.
    """
    with open(path, "rb") as file:
        content = file.read(HEADER_DTYPE.itemsize)
    if len(content) < HEADER_DTYPE.itemsize:
        raise ValueError(f"{len(content)} bytes are no MRC header, which has {HEADER_DTYPE.itemsize}")
    header: Any = np.frombuffer(content, HEADER_DTYPE).reshape(()).view(np.recarray)
    if bytes(header.map)[:3] != MAP_ID[:3]:
        raise ValueError("there is no 'MAP' in the header, so this is no MRC file")
    header.dtype = header.dtype.newbyteorder(utils.byte_order_from_machine_stamp(header.machst))
    dtype = utils.data_dtype_from_header(header)
    sizes = {name: int(header[name]) for name in ("nx", "ny", "nz", "mz", "nsymbt")}
    if min(sizes["nx"], sizes["ny"], sizes["nz"], sizes["nsymbt"]) < 0:
        raise ValueError(f"the header has negative sizes: {sizes}")
    if utils.spacegroup_is_volume_stack(header.ispg) and (sizes["mz"] < 1 or sizes["nz"] % sizes["mz"]):
        raise ValueError(f"{sizes['nz']} sections are no volumes of {sizes['mz']}")
    axes = (int(header.mapc), int(header.mapr), int(header.maps))
    if axes not in AXES:
        raise ValueError(
            f"its columns, rows and sections are the axes {axes}, and only (1, 2, 3), x, y and z, are read: "
            "write it again in that order"
        )
    shape = utils.data_shape_from_header(header)
    offset = HEADER_DTYPE.itemsize + sizes["nsymbt"]
    stored, claimed = path.stat().st_size, offset + math.prod(shape) * dtype.itemsize
    if stored < claimed:
        raise ValueError(f"it has {stored:,} bytes, and its header speaks of {claimed:,}: {shape} {dtype}")
    unsigned = dtype == np.int8 and _holds_unsigned_bytes(header)
    return MRCHeader(shape, np.dtype(np.uint8) if unsigned else dtype, offset, _voxel_size(header))


def _voxel_size(header: Any) -> VoxelSize:
    """A box of so many Angstrom has so many intervals."""
    sides = [
        to_nanometers(float(header.cella[axis]) / int(header[f"m{axis}"]) if header[f"m{axis}"] else None, "angstrom")
        for axis in "zyx"
    ]
    return sides[0], sides[1], sides[2]


def _holds_unsigned_bytes(header: Any) -> bool:
    """Bytes (mode 0) are signed by the standard; programs of before wrote unsigned ones, and IMOD says which."""
    stamp, flags = np.frombuffer(header.extra2.tobytes()[40:48], header.mode.dtype)
    return stamp == IMOD_STAMP and not flags & SIGNED_BYTES
