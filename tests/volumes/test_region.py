"""Regions of volumes, and volumes that are cropped to one."""

from __future__ import annotations

import pickle
from pathlib import Path

from prompt_das.volumes.cropped_volume import CroppedVolume
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.point_files import crop_clicks
from prompt_das.volumes.region import Region
from prompt_das.volumes.volume import Volume, VolumeError

import numpy as np
import pytest
import tifffile
import zarr

SHAPE = (4, 20, 30)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("1:3,2:5,7:30", ((1, 3), (2, 5), (7, 30))),
        (":,:,:", ((0, 4), (0, 20), (0, 30))),
        ("2:, :5 ,7:8", ((2, 4), (0, 5), (7, 8))),
    ],
)
def test_ends_that_are_left_out_are_those_of_the_volume(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    assert Region.parse(text, SHAPE, "v") == spans


@pytest.mark.parametrize(
    "text", ["", "1:2,3:4", "1:2,3:4,5:6,7:8", "1,2,3", "-1:2,:,:", "a:2,:,:", "1:2:1,:,:", "1.5:2,:,:"]
)
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not z0:z1,y0:y1,x0:x1"):
        Region.parse(text, SHAPE, "scan.tif")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0:5,:,:", "ends outside of scan.tif: z goes from 0 to 4"),
        (":,:,31:40", "ends outside of scan.tif: x goes from 0 to 30"),
        (":,5:5,:", "is empty: y goes from 5 to 5"),
        ("3:2,:,:", "is empty: z goes from 3 to 2"),
        (":,:,30:", "is empty: x goes from 30 to 30"),
    ],
)
def test_a_region_outside_or_empty_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        Region.parse(text, SHAPE, "scan.tif")
    assert repr(text) in str(error.value)


@pytest.fixture
def voxels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, SHAPE).astype(np.uint8)


def test_a_cropped_volume_holds_the_box_of_every_slice(tmp_path: Path, voxels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "v.tif", voxels, photometric="minisblack")
    cropped: Volume = CroppedVolume(open_volume(tmp_path / "v.tif"), (3, 5, 13, 25))
    cropped = pickle.loads(pickle.dumps(cropped))  # noqa: S301  (as it goes to workers)
    assert (cropped.shape, cropped.dtype, len(cropped)) == ((4, 10, 20), np.uint8, 4)
    np.testing.assert_array_equal(cropped.read(2), voxels[2, 3:13, 5:25])
    np.testing.assert_array_equal(cropped.read(3, (1, 2, 4, 9)), voxels[3, 4:7, 7:14])
    assert "v.tif" in cropped.name_of(2)
    assert "slice 2" in cropped.name_of(2)
    with pytest.raises(ValueError, match="is not inside the slice"):
        cropped.read(0, (0, 0, 11, 5))
    with pytest.raises(ValueError, match="is not inside the slice"):
        CroppedVolume(open_volume(tmp_path / "v.tif"), (3, 5, 21, 25))


def test_chunks_outside_of_the_box_are_not_read(tmp_path: Path, voxels: np.ndarray) -> None:
    array = zarr.create_array(str(tmp_path / "v.zarr"), shape=SHAPE, chunks=(1, 10, 10), dtype="u1")
    array[:] = voxels
    for chunk in (tmp_path / "v.zarr" / "c").rglob("*"):
        if chunk.is_file() and chunk.relative_to(tmp_path / "v.zarr" / "c").parts[1:] != ("1", "2"):
            chunk.write_bytes(b"damaged")
    whole = open_volume(tmp_path / "v.zarr")
    np.testing.assert_array_equal(CroppedVolume(whole, (10, 20, 20, 30)).read(1), voxels[1, 10:, 20:])
    with pytest.raises(VolumeError):
        CroppedVolume(whole, (9, 20, 20, 30)).read(1)


def test_clicks_are_cropped_half_open_and_count_from_the_box() -> None:
    clicks = {
        0: np.array([[5, 3, 1], [24.5, 12.5, 0], [25, 12, 1], [4.5, 8, 1], [9, 13, 1]], np.float32),
        1: np.array([[1, 1, 1]], np.float32),
        2: np.zeros((0, 3), np.float32),
    }
    cropped = crop_clicks(clicks, (3, 5, 13, 25))
    assert cropped[0].tolist() == [[0, 0, 1], [19.5, 9.5, 0]]
    assert cropped.keys() == {0, 2}  # slice 2 was annotated and holds nothing, of slice 1 nothing is known here
