"""Zarr at an address: read as from a disk, and every fault of a server is one line that names the address."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_zarr import inflating, zarr_of_format_2
from prompt_das.data.datasets import find_volume
from prompt_das.data.slices import open_image_volume
from prompt_das.volumes.address import Address
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import RemoteError, Volume, VolumeError
from zarr_server import ZarrServer, serve

import numpy as np
import pytest
import zarr

pytest.importorskip("aiohttp")
from prompt_das.volumes import remote_files

SHAPE = (3, 20, 30)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "_WAITS", (0.01, 0.02))


@pytest.fixture
def voxels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, 255, SHAPE).astype(np.uint8)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ZarrServer]:
    with serve(tmp_path) as server:
        yield server


@pytest.fixture
def scan(tmp_path: Path, voxels: np.ndarray, server: ZarrServer) -> str:
    """The address of an array in chunks of 10 x 10."""
    write(tmp_path / "scan.zarr", voxels)
    return f"{server.address}/scan.zarr"


def write(path: Path, voxels: np.ndarray, **options: Any) -> None:
    options = {"chunks": (1, 10, 10), **options}
    zarr.create_array(str(path), shape=voxels.shape, dtype="u1", **options)[:] = voxels


def whole(volume: Volume) -> np.ndarray:
    return np.stack([volume.read(z) for z in range(len(volume))])


def error_of(address: str, kind: type[Exception] = RemoteError) -> str:
    with pytest.raises(kind) as error:
        open_volume(address).read(1)
    text = str(error.value)
    assert str(Address(address)) in text
    assert "\n" not in text
    return text


# ---- what is read


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_at_an_address_is_read_as_from_a_disk(
    tmp_path: Path, server: ZarrServer, voxels: np.ndarray, zarr_format: int
) -> None:
    write(tmp_path / "v.zarr", voxels, zarr_format=zarr_format)
    volume = open_volume(f"{server.address}/v.zarr/")
    np.testing.assert_array_equal(whole(volume), voxels)
    assert str(volume.path) == f"{server.address}/v.zarr"
    again = pickle.loads(pickle.dumps(volume))  # noqa: S301  (as it goes to workers)
    np.testing.assert_array_equal(again.read(2), voxels[2])


def test_only_the_chunks_of_a_box_are_fetched_each_once(server: ZarrServer, scan: str, voxels: np.ndarray) -> None:
    volume = open_volume(scan)
    server.requests.clear()
    np.testing.assert_array_equal(volume.read(1, (0, 12, 8, 25)), voxels[1, :8, 12:25])
    assert server.requests == {"/scan.zarr/c/1/0/1": 1, "/scan.zarr/c/1/0/2": 1}


def test_a_shard_is_read_in_parts_by_servers_that_send_them(
    tmp_path: Path, server: ZarrServer, voxels: np.ndarray
) -> None:
    write(tmp_path / "s.zarr", voxels, shards=(3, 20, 30))
    assert "does not send parts of files" in error_of(f"{server.address}/s.zarr")
    server.ranges = True
    volume = open_volume(f"{server.address}/s.zarr")
    np.testing.assert_array_equal(whole(volume), voxels)


def test_the_finest_scale_and_the_voxel_size_of_ome_zarr(
    tmp_path: Path, server: ZarrServer, voxels: np.ndarray
) -> None:
    group = zarr.open_group(str(tmp_path / "ome.zarr"), mode="w", zarr_format=2)
    for name, array in (("s1", voxels[:, ::2, ::2]), ("s0", voxels)):
        group.create_array(name, data=array)
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    scales = [
        {"path": f"s{i}", "coordinateTransformations": [{"type": "scale", "scale": [30, 8 * n, 8 * n]}]}
        for i, n in ((1, 2), (0, 1))
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": scales}]
    volume = open_volume(f"{server.address}/ome.zarr")
    assert (volume.shape, volume.voxel_size) == (SHAPE, (30, 8, 8))
    assert open_volume(f"{server.address}/ome.zarr", "s1").shape == (3, 10, 15)


def test_a_group_whose_arrays_cannot_be_listed_asks_for_a_name(
    tmp_path: Path, server: ZarrServer, voxels: np.ndarray
) -> None:
    zarr.open_group(str(tmp_path / "g.zarr"), mode="w").create_array("raw", data=voxels)
    address = f"{server.address}/g.zarr"
    assert "say which one (--dataset" in error_of(address, VolumeError)
    np.testing.assert_array_equal(whole(open_volume(address, "raw")), voxels)
    with pytest.raises(VolumeError, match="has no array 'row'"):
        open_volume(address, "row")
    zarr.consolidate_metadata(str(tmp_path / "g.zarr"))
    np.testing.assert_array_equal(whole(open_volume(address)), voxels)


def test_chunks_that_were_never_written_are_the_fill_value(tmp_path: Path, server: ZarrServer) -> None:
    array = zarr.create_array(str(tmp_path / "v.zarr"), shape=SHAPE, chunks=(1, 10, 10), dtype="u1", fill_value=7)
    array[0] = 1
    volume = open_volume(f"{server.address}/v.zarr")
    assert np.unique(volume.read(0)).tolist() == [1]
    assert np.unique(volume.read(1)).tolist() == [7]


def test_a_description_may_name_an_address(tmp_path: Path, scan: str, voxels: np.ndarray) -> None:
    (tmp_path / "lab.yaml").write_text(f"name: remote_lab\nimages: {scan}\nvoxel_size: [30, 8, 8]\n")
    slices, spec = find_volume(tmp_path / "lab.yaml")
    assert (spec.voxel_size, len(slices)) == ((30, 8, 8), 3)
    np.testing.assert_array_equal(open_image_volume(slices[2]).read(2), voxels[2])


# ---- faults of servers


def test_an_address_without_a_zarr(server: ZarrServer, scan: str) -> None:
    assert "holds no Zarr" in error_of(f"{server.address}/nothing.zarr")


def test_an_address_that_nobody_listens_at(server: ZarrServer, scan: str) -> None:
    server.shutdown()
    server.server_close()
    began = time.monotonic()
    assert "cannot be read: Cannot connect" in error_of(scan)
    assert time.monotonic() - began < 20


def test_a_server_that_does_not_answer_is_waited_for_a_bounded_time(
    server: ZarrServer, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "PATIENCE", 1.0)
    server.silent = True
    began = time.monotonic()
    assert "no answer within 1 seconds" in error_of(scan)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("file", ["zarr.json", "c/1/0/0"])
def test_no_permission_is_not_taken_for_a_missing_file(server: ZarrServer, scan: str, status: int, file: str) -> None:
    server.statuses[file] = status, 99
    assert "may not be read" in error_of(scan)
    assert server.requests[f"/scan.zarr/{file}"] == 1  # asking again would not help


def test_a_passing_fault_is_not_noticed_and_a_lasting_one_is_named(
    server: ZarrServer, scan: str, voxels: np.ndarray
) -> None:
    server.statuses["c/1/0/0"] = 503, 2
    np.testing.assert_array_equal(open_volume(scan).read(1), voxels[1])
    server.statuses["c/1/0/0"] = 503, 99
    assert "scan.zarr/c/1/0/0 cannot be read: HTTP 503" in error_of(scan)


def test_data_that_vanish_while_they_are_read_are_not_zeros(
    tmp_path: Path, server: ZarrServer, scan: str, voxels: np.ndarray
) -> None:
    volume = open_volume(scan)
    volume.read(0)
    shutil.rmtree(tmp_path / "scan.zarr")
    with pytest.raises(RemoteError, match=r"scan\.zarr/zarr\.json is no longer what it was: were the data moved"):
        volume.read(1)
    write(tmp_path / "scan.zarr", voxels[:2])
    with pytest.raises(RemoteError, match="is no longer what it was"):
        volume.read(2)


def test_a_page_in_place_of_metadata(tmp_path: Path, server: ZarrServer) -> None:
    (tmp_path / "page.zarr").mkdir()
    (tmp_path / "page.zarr" / "zarr.json").write_text("<html>Please log in</html>")
    assert "cannot be read" in error_of(f"{server.address}/page.zarr", VolumeError)


# ---- hostile data


def test_a_file_without_end_is_not_read_to_its_end(
    server: ZarrServer, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "_LARGEST_DOCUMENT", 10**5)
    server.endless = ("c/1/0/0",)
    assert "more than it can need" in error_of(scan, VolumeError)
    server.endless = ("zarr.json",)
    assert "zarr.json has more than 100,000 bytes" in error_of(scan, VolumeError)


@pytest.mark.parametrize("codec", ["zstd", "blosc", "gzip"])
def test_a_chunk_that_inflates_past_its_size_is_not_decoded(
    tmp_path: Path, server: ZarrServer, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prompt_das.volumes.zarr_chunks._HARMLESS", 0)
    zarr_of_format_2(tmp_path / "v.zarr", *inflating(bytes(10**6))[codec])
    with pytest.raises(VolumeError, match="inflates to more than the 64 bytes of a chunk"):
        open_volume(f"{server.address}/v.zarr").read(0)


def test_a_shard_whose_part_is_missing_is_not_zeros(tmp_path: Path, server: ZarrServer, voxels: np.ndarray) -> None:
    write(tmp_path / "s.zarr", voxels, shards=(3, 20, 30))
    server.ranges = True
    volume = open_volume(f"{server.address}/s.zarr")
    shard = tmp_path / "s.zarr" / "c" / "0" / "0" / "0"
    index = np.frombuffer(shard.read_bytes()[-(16 * 18 + 4) :], np.uint8)
    shard.write_bytes(index.tobytes())  # its chunks are cut off
    with pytest.raises(VolumeError, match="is damaged or incomplete"):
        volume.read(0)


def test_more_slices_than_any_volume_has(tmp_path: Path, server: ZarrServer) -> None:
    zarr.create_array(str(tmp_path / "v.zarr"), shape=(10**9, 8, 8), chunks=(1, 8, 8), dtype="u1")
    assert "slices" in error_of(f"{server.address}/v.zarr", VolumeError)


# ---- credentials


def test_credentials_go_to_the_server_and_nowhere_else(
    server: ZarrServer, scan: str, voxels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    server.authorization, server.query = "Basic dXNlcjpzZWNyZXQ=", "sig=a/b&se=2030"  # user:secret
    given = scan.replace("://", "://user:secret@") + "?sig=a%2Fb&se=2030"
    volume = open_volume(given)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(volume))), voxels)  # noqa: S301
    slices, spec = find_volume(given)
    np.testing.assert_array_equal(open_image_volume(slices[1]).read(1), voxels[1])
    shown = [repr(volume), volume.name_of(1), json.dumps(slices), repr(slices), repr(spec), caplog.text]
    server.authorization = "other"
    shown.append(error_of(given))
    server.authorization, server.statuses["zarr.json"] = None, (500, 99)
    shown.append(error_of(given))  # a message of aiohttp's, with its URL
    for text in shown:
        assert "secret" not in text
        assert "sig=" not in text


def test_credentials_in_an_address_of_a_bucket_are_refused_without_showing_them() -> None:
    pytest.importorskip("fsspec")
    for address in ("s3://key:secret@bucket/v.zarr", "gs://bucket/v.zarr?token=secret"):
        with pytest.raises(VolumeError, match="takes credentials from the environment") as error:
            open_volume(address)
        assert "secret" not in str(error.value)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote_files._LIBRARIES, "s3", ("no_such_s3fs", ()))
    with pytest.raises(VolumeError, match=r"s3:// needs no_such_s3fs, .*pip install 'prompt_das\[remote\]'"):
        open_volume("s3://bucket/v.zarr")


@pytest.mark.parametrize("text", ["https://", "s3:///key", "https://?a=b"])
def test_an_address_without_a_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Address(text)


def test_connections_are_closed_with_the_volume(scan: str, caplog: pytest.LogCaptureFixture) -> None:
    volume = open_volume(scan)
    volume.read(0)
    del volume
    gc.collect()
    assert "Unclosed" not in caplog.text
