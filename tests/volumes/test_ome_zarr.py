"""OME-Zarr as others read it, in both versions of the format."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

from prompt_das.volumes.label_array import label_array
from prompt_das.volumes.ome_zarr import (
    INSTANCES,
    LABELS,
    MOST_DESCRIBED,
    OME_VERSIONS,
    add_instances,
    add_levels,
    create_levels,
    create_ome_zarr,
    describe_image,
    describe_instances,
    fill_level,
    finest,
)
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.pyramid import mean, mode
from prompt_das.volumes.volume import VolumeError

import numpy as np
import ome_zarr_models
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import zarr
from zarr.codecs import ShardingCodec, ZstdCodec

SHAPE = (3, 1030, 300)  # more than one chunk in y, three levels
VOXEL_SIZE = (30.0, 8.0, 4.0)
ABOUT = {"image": {"path": "scan.tif"}}
COLUMNS = {"id": np.array([1, 2]), "voxels": np.array([40, 2]), "mean_probability": np.array([0.5, 1.0])}


def ignore(count: int) -> None:
    pass


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def ids(values: np.ndarray) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint32)
    labels[1] = values[1] * np.uint32(270)
    return labels


@pytest.fixture(params=OME_VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def path(tmp_path: Path, values: np.ndarray, ids: np.ndarray, version: str) -> Path:
    """A whole one, as `prompt-das predict` leaves it."""
    path = tmp_path / "out.zarr"
    group = create_ome_zarr(path, SHAPE, ("probability", "density"), VOXEL_SIZE, ABOUT, version=version)
    for z, one in enumerate(values):
        finest(group, "probability")[z] = one
        finest(group, "density")[z] = 255 - one
    add_instances(group, SHAPE, 70_000, VOXEL_SIZE)[1] = ids[1]
    for name in ("probability", "density"):
        describe_image(group, name, add_levels(group, name, VOXEL_SIZE, mean, ignore), VOXEL_SIZE)
    describe_instances(group, add_levels(group, LABELS, VOXEL_SIZE, mode, ignore), VOXEL_SIZE, COLUMNS)
    return path


def attributes(path: Path) -> dict[str, Any]:
    """OME-Zarr's own of a group."""
    if (path / "zarr.json").exists():
        ome: dict[str, Any] = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
        assert ome["version"] == "0.5"
        return ome
    found: dict[str, Any] = json.loads((path / ".zattrs").read_text())
    return found


def assert_equal_volume(path: Path, dataset: str | None, expected: np.ndarray) -> None:
    volume = open_volume(path, dataset)
    assert volume.shape == expected.shape
    assert volume.voxel_size == VOXEL_SIZE
    for z, one in enumerate(expected):
        np.testing.assert_array_equal(volume.read(z), one)
    np.testing.assert_array_equal(volume.read(1, (1020, 3, 1028, 9)), expected[1, 1020:1028, 3:9])


def test_it_reads_as_a_volume(path: Path, values: np.ndarray, ids: np.ndarray) -> None:
    assert_equal_volume(path, None, values)  # the whole opens as its first image
    assert_equal_volume(path, "density/0", 255 - values)
    assert_equal_volume(path / "density", None, 255 - values)
    assert label_array(path) == INSTANCES
    assert_equal_volume(path, INSTANCES, ids)


def test_the_models_of_the_format_accept_it(path: Path, version: str) -> None:
    models: Any = {"0.4": ome_zarr_models.v04, "0.5": ome_zarr_models.v05}[version]
    for image in (path, path / "probability", path / "density"):
        group = zarr.open_group(str(image), mode="r")
        found: Any = ome_zarr_models.open_ome_zarr(group)
        assert type(found) is models.Image
        assert found.ome_zarr_version == version
    for labels in (path / "labels", path / LABELS):
        group = zarr.open_group(str(labels), mode="r")
        models_of: Any = {"labels": models.Labels, "instances": models.ImageLabel}[labels.name]
        models_of.from_zarr(group)


def test_levels_are_described_where_they_lie(path: Path, version: str) -> None:
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    for folder, prefix, how in (
        (path, "probability/", "mean"),
        (path / "probability", "", "mean"),
        (path / "density", "", "mean"),
        (path / LABELS, "", "mode"),
    ):
        (scales,) = attributes(folder)["multiscales"]
        assert scales["axes"] == axes
        assert scales["type"] == how
        assert scales.get("version") == ("0.4" if version == "0.4" else None)
        assert [one["path"] for one in scales["datasets"]] == [f"{prefix}{i}" for i in range(4)]
        group = zarr.open_group(str(folder), mode="r")
        for i, one in enumerate(scales["datasets"]):
            scale, *shift = one["coordinateTransformations"]
            thick = 2 if i == 3 else 1  # 30 x 32 x 16 nm is about as thick as wide
            assert scale["scale"] == [30 * thick, 8 * 2**i, 4 * 2**i]
            if i:  # the first voxel's center lies between those of the voxels that it is made of
                expected = [30 * (thick - 1) / 2, 8 * (2**i - 1) / 2, 4 * (2**i - 1) / 2]
                assert shift[0]["translation"] == expected
            array: Any = group[one["path"]]
            assert array.shape == (3 if thick == 1 else 2, -(-1030 // 2**i), -(-300 // 2**i))
            if version == "0.5":
                assert array.metadata.dimension_names == ("z", "y", "x")


def test_all_levels_of_a_region_lie_in_the_larger_volume(tmp_path: Path) -> None:
    """By the centers of their first voxels: of the second level those of two voxels in y and x, half a voxel on."""
    path, origin = tmp_path / "part.zarr", (2, 10, 20)
    group = create_ome_zarr(path, SHAPE, ("probability",), VOXEL_SIZE, {}, origin=origin)
    levels = add_levels(group, "probability", VOXEL_SIZE, mean, ignore)
    describe_image(group, "probability", levels, VOXEL_SIZE, origin)
    (scales,) = attributes(path)["multiscales"]
    translations = [dataset["coordinateTransformations"][1]["translation"] for dataset in scales["datasets"]]
    assert translations[:2] == [[60, 80, 80], [60, 84, 82]]


def test_levels_hold_means_and_modes(path: Path, values: np.ndarray, ids: np.ndarray) -> None:
    group: Any = zarr.open_group(str(path), mode="r")
    windows = values.reshape(3, 515, 2, 150, 2).astype(int)
    np.testing.assert_array_equal(group["probability/1"][:], (windows.sum((2, 4)) + 2) // 4)
    windows = ids.reshape(3, 515, 2, 150, 2)
    coarse = group[f"{LABELS}/1"][:]
    assert np.any(windows == coarse[:, :, None, :, None], axis=(2, 4)).all()
    assert coarse.any()


def test_viewers_are_told_how_to_show_it(path: Path) -> None:
    for folder in (path, path / "probability", path / "density"):
        omero = attributes(folder)["omero"]
        (channel,) = omero["channels"]
        assert channel["window"] == {"min": 0, "max": 255, "start": 0, "end": 255}
        assert channel["active"]
        assert omero["rdefs"]["defaultZ"] == 1
    label = attributes(path / LABELS)["image-label"]
    assert (path / LABELS / label["source"]["image"]).resolve() == path.resolve()
    assert [color["label-value"] for color in label["colors"]] == [1, 2]
    assert label["colors"][0]["rgba"] != label["colors"][1]["rgba"]
    assert label["properties"][0] == {"label-value": 1, "id": 1, "voxels": 40, "mean_probability": 0.5}
    assert attributes(path / "labels")["labels"] == ["instances"]
    assert zarr.open_group(str(path), mode="r").attrs["prompt_das"] == ABOUT


def test_instances_are_all_described_or_none_so_that_viewers_hide_none(tmp_path: Path) -> None:
    group = create_ome_zarr(tmp_path / "out.zarr", (1, 2, 2), ("probability",), None, {})
    add_instances(group, (1, 2, 2), 5, None)
    for count, described in ((0, False), (MOST_DESCRIBED, True), (MOST_DESCRIBED + 1, False)):
        describe_instances(group, [], None, {"id": np.arange(1, count + 1)})
        label = attributes(tmp_path / "out.zarr" / LABELS)["image-label"]
        assert ("colors" in label, "properties" in label) == (described, described)


def test_version_0_4_is_what_bio_formats_reads(tmp_path: Path) -> None:
    """Its library for Zarr knows the codecs Blosc and zlib, and folders between the indices of chunks."""
    create_ome_zarr(tmp_path / "out.zarr", SHAPE, ("probability",), VOXEL_SIZE, ABOUT)
    array = json.loads((tmp_path / "out.zarr" / "probability" / "0" / ".zarray").read_text())
    assert (array["zarr_format"], array["dimension_separator"], array["compressor"]["id"]) == (2, "/", "blosc")


def test_version_0_5_has_a_file_for_each_slice_and_every_chunk_a_checksum(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "out.zarr"
    array = finest(create_ome_zarr(path, SHAPE, ("probability",), VOXEL_SIZE, ABOUT, version="0.5"), "probability")
    array[:] = values
    (sharding,) = array.metadata.codecs
    assert isinstance(sharding, ShardingCodec)
    assert [one for one in sharding.codecs if isinstance(one, ZstdCodec) and one.checksum]
    files = sorted(file for file in (path / "probability" / "0" / "c").rglob("*") if file.is_file())
    assert len(files) == SHAPE[0]
    whole = files[1].read_bytes()
    for position in np.linspace(0, len(whole) - 1, 60).astype(int):
        files[1].write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            found = open_volume(path).read(1)
        except VolumeError:
            continue
        np.testing.assert_array_equal(found, values[1])  # of what is not the content of a chunk


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, "uint16"), (65_535, "uint16"), (65_536, "uint32"), (2**32 - 1, "uint32"), (2**32, "uint64")],
)
def test_ids_get_a_type_that_holds_them(tmp_path: Path, count: int, dtype: str) -> None:
    group = create_ome_zarr(tmp_path / "out.zarr", (1, 2, 2), ("probability",), None, {})
    assert add_instances(group, (1, 2, 2), count, None).dtype == dtype


def test_a_result_of_before_is_read(tmp_path: Path) -> None:
    """Arrays of one level, all described at the root."""
    group = zarr.open_group(str(tmp_path / "old.zarr"), mode="w", zarr_format=2)
    stored = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [30, 8, 4]}]

    def scales(path: str) -> dict[str, Any]:
        datasets = [{"path": path, "coordinateTransformations": scale}]
        return {"version": "0.4", "name": path, "axes": axes, "datasets": datasets}

    for name in ("probability", "density", INSTANCES):
        group.create_array(name, data=stored, chunks=(1, 3, 4))
    group.attrs["multiscales"] = [scales("probability"), scales("density")]
    group["labels"].attrs["labels"] = ["instances"]
    group[LABELS].attrs.update({"multiscales": [scales("0")], "image-label": {"source": {"image": "../../"}}})
    assert label_array(tmp_path / "old.zarr") == INSTANCES
    for dataset in (None, "density", INSTANCES):
        volume = open_volume(tmp_path / "old.zarr", dataset)
        assert volume.voxel_size == VOXEL_SIZE
        np.testing.assert_array_equal(volume.read(1), stored[1])


def test_instances_and_levels_are_written_anew(path: Path) -> None:
    group: Any = zarr.open_group(str(path), mode="r+")
    labels = add_instances(group, SHAPE, 5, None)
    assert labels.dtype == np.uint16
    assert not np.any(labels[:])
    assert not (path / LABELS / "1").exists()
    finest(group, "density")[:] = 0
    add_levels(group, "density", VOXEL_SIZE, mean, ignore)
    assert not group["density/1"][:].any()


def test_levels_of_many_slices_take_the_memory_of_a_few(tmp_path: Path, version: str) -> None:
    """Chunks of coarser levels reach through several slices; 64 slices of 256 kB in less than 8 MB."""
    shape = (64, 512, 512)
    group = create_ome_zarr(tmp_path / "out.zarr", shape, ("probability",), VOXEL_SIZE, {}, version=version)
    finest(group, "probability")[:8] = 7
    seen: list[int] = []
    tracemalloc.start()
    add_levels(group, "probability", VOXEL_SIZE, mean, seen.append)
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()
    assert sum(seen) == 64
    assert (zarr.open_group(str(tmp_path / "out.zarr"))["probability/1"][:9] > 0).mean() > 0.8


def test_a_level_that_is_filled_in_parts_is_that_filled_at_once(tmp_path: Path, version: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("prompt_das.volumes.pyramid._COARSEST", 8)
    rng = np.random.default_rng(0)
    group = create_ome_zarr(tmp_path / "out.zarr", (21, 40, 30), ("one", "parts"), (8, 8, 8), {}, version=version)
    finest(group, "one")[:] = finest(group, "parts")[:] = rng.integers(0, 256, (21, 40, 30), dtype=np.uint8)
    levels = add_levels(group, "one", (8, 8, 8), mean, ignore)
    assert create_levels(group, "parts", (8, 8, 8)) == levels
    for index, level in enumerate(levels[1:], 1):
        chunk = group[f"parts/{index}"].chunks[0]
        for start in reversed(range(0, level.shape[0], chunk)):
            fill_level(group, "parts", levels, index, (start, min(start + chunk, level.shape[0])), mean)
        np.testing.assert_array_equal(group[f"parts/{index}"][:], group[f"one/{index}"][:])
