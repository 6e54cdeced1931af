"""MRC files, as IMOD and tomography write them."""

from __future__ import annotations

import copy
from pathlib import Path

from prompt_das.volumes.mrc_volume import IMOD_STAMP, SIGNED_BYTES
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import VolumeError

import mrcfile
import numpy as np
import pytest


def write(path: Path, data: np.ndarray, imod_flags: int | None = None) -> Path:
    """``imod_flags``: of an IMOD that marks its files."""
    with mrcfile.new(path) as file:
        file.set_data(data)
        file.voxel_size = (50.0, 50.0, 400.0)  # x, y, z in angstrom
        if imod_flags is not None:
            extra = bytearray(file.header.extra2.tobytes())
            extra[40:48] = np.array([IMOD_STAMP, imod_flags], np.int32).tobytes()
            file.header.extra2 = np.void(bytes(extra))
    return path


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("suffix", [".mrc", ".rec"])
def test_slices_boxes_and_voxel_size(tmp_path: Path, dtype: type, suffix: str) -> None:
    data = np.random.default_rng(0).integers(0, 100, (3, 5, 7)).astype(dtype)
    volume = copy.copy(open_volume(write(tmp_path / f"tomogram{suffix}", data)))  # opens the file again, as workers do
    assert (volume.shape, volume.dtype) == ((3, 5, 7), dtype)
    assert volume.voxel_size == pytest.approx((40, 5, 5))
    np.testing.assert_array_equal(volume.read(2), data[2])
    np.testing.assert_array_equal(volume.read(1, (1, 2, 4, 6)), data[1, 1:4, 2:6])


def test_one_section(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.int16).reshape(3, 4)
    volume = open_volume(write(tmp_path / "one.mrc", data))
    assert volume.shape == (1, 3, 4)
    np.testing.assert_array_equal(volume.read(0), data)


@pytest.mark.parametrize(("flags", "dtype"), [(None, np.int8), (SIGNED_BYTES, np.int8), (0, np.uint8)])
def test_bytes_are_unsigned_where_imod_says_so(tmp_path: Path, flags: int | None, dtype: type) -> None:
    data = np.array([[[0, 200, 255]]], np.uint8)
    volume = open_volume(write(tmp_path / "bytes.mrc", data.view(np.int8), flags))
    np.testing.assert_array_equal(volume.read(0), data.view(dtype)[0])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.mrc", np.zeros((4, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VolumeError, match="cannot be read"):
        open_volume(path)
    path.write_bytes(b"no header")
    with pytest.raises(VolumeError, match="cannot be read"):
        open_volume(path)


def test_complex_values_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "transform.mrc", np.zeros((2, 4, 4), np.complex64))
    with pytest.raises(VolumeError, match="holds complex64"):
        open_volume(path)
