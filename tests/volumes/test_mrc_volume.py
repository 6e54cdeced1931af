"""MRC files, as IMOD and tomography write them."""

from __future__ import annotations

import copy
import tracemalloc
from pathlib import Path

from prompt_das.volumes.mrc_volume import IMOD_STAMP, SIGNED_BYTES
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import VolumeError

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE


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


def change(path: Path, **fields: int) -> Path:
    """Write other values of the header, as a damaged or hostile file has them."""
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, HEADER_DTYPE, 1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(content)
    return path


HUGE = 2**31 - 1
LIES = {
    "no section is there": {"nz": 10**9},
    "sizes beyond 64 bits": {"nx": HUGE, "ny": HUGE, "nz": HUGE},
    "sizes whose product is 0 in 32 bits": {"nx": 65536, "ny": 65536, "nz": 65536},
    "negative": {"nx": -7, "ny": -5},
    "negative sections": {"nz": -3},
    "unknown mode": {"mode": 99},
    "complex integers": {"mode": 3},
    "larger values": {"mode": 2},
    "negative extended header": {"nsymbt": -1024},
    "exchanged axes": {"mapc": 3, "mapr": 2, "maps": 1},
    "volumes that do not fill the file": {"ispg": 401, "mz": 2},
    "volumes of no sections": {"ispg": 401, "mz": 0},
    "no byte order": {"machst": 0},
}


def meant_for_users(warnings: pytest.WarningsRecorder) -> list[str]:
    """Without those for authors of libraries: NumPy 2.5 deprecates what mrcfile does."""
    return [str(one.message) for one in warnings if not issubclass(one.category, DeprecationWarning)]


@pytest.mark.parametrize("fields", LIES.values(), ids=LIES)
def test_a_header_that_lies_is_refused_without_warnings(
    tmp_path: Path, fields: dict[str, int], recwarn: pytest.WarningsRecorder
) -> None:
    path = change(write(tmp_path / "lie.mrc", np.ones((3, 5, 7), np.int16)), **fields)
    recwarn.clear()
    with pytest.raises(VolumeError, match=r"lie\.mrc"):
        open_volume(path)
    assert not meant_for_users(recwarn)


def test_an_extended_header_of_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    path = change(write(tmp_path / "bomb.mrc", np.ones((3, 5, 7), np.int16)), nsymbt=HUGE)
    tracemalloc.start()
    with pytest.raises(VolumeError, match="its header speaks of"):
        open_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_no_intervals_are_no_voxel_size(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = change(write(tmp_path / "no_size.mrc", np.ones((3, 5, 7), np.int16)), mx=0)
    recwarn.clear()
    assert open_volume(path).voxel_size is None
    assert not meant_for_users(recwarn)


def test_a_file_that_is_cut_off_while_it_is_open_is_named(tmp_path: Path) -> None:
    """A mapped one would end the process with SIGBUS."""
    path = write(tmp_path / "cut.mrc", np.ones((4, 64, 64), np.float32))
    volume = open_volume(path)
    with open(path, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(VolumeError, match=r"cut\.mrc, slice 3 cannot be read"):
        volume.read(3)


def test_an_extended_header_and_bytes_at_the_end_are_skipped(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = tmp_path / "extended.mrc"
    with mrcfile.new(path) as file:
        file.set_data(data)
        file.set_extended_header(np.frombuffer(b"x" * 256, "V1"))
    with open(path, "ab") as content:
        content.write(b"the end")
    np.testing.assert_array_equal(open_volume(path).read(1), data[1])
