"""Zarr in an S3 bucket, of a server on this machine. It runs where s3fs and moto's server are installed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from prompt_das.volumes import remote_files
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import RemoteError

import numpy as np
import pytest
import zarr

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

BUCKETS = itertools.count()  # moto's servers share what is in them
VOXELS = np.random.default_rng(0).integers(1, 255, (3, 20, 30)).astype(np.uint8)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket."""
    import s3fs

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        s3fs.S3FileSystem.clear_instance_cache()  # of the server before
        name = f"scans-{next(BUCKETS)}"
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
        yield f"s3://{name}"
    finally:
        server.stop()


def write(address: str, **options: object) -> str:
    array = zarr.create_array(address, shape=VOXELS.shape, chunks=(1, 10, 10), dtype="u1", **options)
    array[:] = VOXELS
    return address


@pytest.mark.parametrize("options", [{"zarr_format": 2}, {}, {"shards": (3, 20, 30)}])
def test_an_array_in_a_bucket_is_read_as_from_a_disk(bucket: str, options: dict[str, object]) -> None:
    volume = open_volume(write(f"{bucket}/v.zarr", **options))
    for z, voxels in enumerate(VOXELS):
        np.testing.assert_array_equal(volume.read(z), voxels)


def test_a_bucket_lists_the_arrays_of_a_group(bucket: str) -> None:
    zarr.open_group(f"{bucket}/g.zarr", mode="w").create_array("raw", data=VOXELS)
    np.testing.assert_array_equal(open_volume(f"{bucket}/g.zarr").read(1), VOXELS[1])


def test_faults_are_one_line_that_names_the_address(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    with pytest.raises(RemoteError, match=r"s3://scans-\d/nothing\.zarr holds no Zarr"):
        open_volume(f"{bucket}/nothing.zarr")
    volume = open_volume(write(f"{bucket}/v.zarr"))
    s3fs.S3FileSystem(skip_instance_cache=True).rm(f"{bucket}/v.zarr", recursive=True)
    with pytest.raises(RemoteError, match=r"s3://scans-\d/v\.zarr/zarr\.json is no longer what it was"):
        volume.read(0)
    monkeypatch.setattr(remote_files, "PATIENCE", 3.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"s3://scans-\d/v\.zarr/[.\w]+") as error:
        open_volume(f"{bucket}/v.zarr")
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 30
