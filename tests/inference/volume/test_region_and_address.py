"""A region of a volume, and a volume at an address: predicted as any other."""

from __future__ import annotations

import csv
import json
import logging
import pickle
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.modeling import PromptDAS
from prompt_das.volumes.address import Address
from prompt_das.volumes.ome_zarr import INSTANCES
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.volume import RemoteError
from zarr_server import ZarrServer, serve

import h5py
import numpy as np
import pytest
import scipy.ndimage
import zarr

SHAPE = (4, 96, 80)
ROI = "1:3,32:96,16:80"
INSIDE = np.s_[1:3, 32:96, 16:80]


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), (1, 3, 3))
    return np.uint8(np.clip(128 + 900 * noise, 1, 255))


@pytest.fixture
def scan(tmp_path: Path, voxels: np.ndarray) -> Path:
    array = zarr.create_array(str(tmp_path / "scan.zarr"), shape=SHAPE, chunks=(1, 32, 32), dtype="u1")
    array[:] = voxels
    array.attrs["resolution"] = [30, 8, 8]
    return tmp_path / "scan.zarr"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ZarrServer]:
    pytest.importorskip("aiohttp")
    with serve(tmp_path) as server:
        yield server


def predict(weights: Path, volume: Any, output: Path, *, stride: int = 16, **kwargs: Any) -> Any:
    source = VolumeSource(volume, roi=kwargs.pop("roi", None), points=kwargs.pop("points", None))
    settings = VolumeSettings(min_size=kwargs.pop("min_size", 3), on_error=kwargs.pop("on_error", "stop"))
    opts = ["TEST.WINDOW.STRIDE", str(stride)]
    return predict_volume(weights, source, output, settings, progress=False, opts=opts, **kwargs)


def map_of(output: Path, name: str = "probability/0") -> np.ndarray:
    return np.asarray(zarr.open_group(str(output), mode="r")[name]).astype(int)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


class Stopped(Exception):
    pass


def stop_after(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the prediction of slice ``number`` fail."""
    original, count = PromptDAS.predict_slice, iter(range(number))

    def predict_slice(*args: Any, **kwargs: Any) -> Any:
        if next(count, None) is None:
            raise Stopped
        return original(*args, **kwargs)

    monkeypatch.setattr(PromptDAS, "predict_slice", predict_slice)


# ---- regions


def test_whole_slices_are_those_of_the_whole_volume(weights: Path, scan: Path, tmp_path: Path) -> None:
    """Slices do not depend on each other."""
    predict(weights, scan, tmp_path / "whole.zarr")
    predict(weights, scan, tmp_path / "part.zarr", roi="1:3,:,:")
    for name in ("probability/0", "density/0"):
        np.testing.assert_array_equal(map_of(tmp_path / "part.zarr", name), map_of(tmp_path / "whole.zarr", name)[1:3])


def test_a_window_from_its_border_a_region_is_that_of_the_whole_volume(
    weights: Path, scan: Path, tmp_path: Path
) -> None:
    """If it begins at a multiple of the stride: then its windows are windows of the whole. Fewer of them lie on its
    border, where the whole has some that begin outside. (A step of 1/255: windows are computed in other batches.)"""
    predict(weights, scan, tmp_path / "whole.zarr")
    predict(weights, scan, tmp_path / "part.zarr", roi=ROI)
    difference = np.abs(map_of(tmp_path / "part.zarr") - map_of(tmp_path / "whole.zarr")[INSIDE])
    assert difference[:, 16:, 16:].max() <= 1
    assert difference.max() > 1


def test_windows_without_overlap_leave_no_border(weights: Path, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("z,y,x\n1,40,40\n2,70,70\n2,10,40\n0,40,40\n")
    for name, roi in (("whole", None), ("part", "1:3,32:96,0:64")):
        predict(weights, scan, tmp_path / f"{name}.zarr", stride=32, roi=roi, points=tmp_path / "clicks.csv")
    whole = map_of(tmp_path / "whole.zarr")[1:3, 32:96, :64]
    # The last column of windows of the whole begins at 48, and overlaps with those that the region has as well.
    assert np.abs(map_of(tmp_path / "part.zarr")[..., :48] - whole[..., :48]).max() <= 1


def test_points_count_in_the_whole_volume_and_those_outside_are_counted(
    weights: Path, scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "clicks.csv").write_text("z,y,x\n1,40,40\n2,70,79\n2,10,40\n0,40,40\n2,50,15\n")
    logging.getLogger("prompt_das").propagate = True
    with caplog.at_level(logging.INFO, "prompt_das"):
        opened = VolumeSource(scan, roi=ROI, points=tmp_path / "clicks.csv").open()
    assert {z: clicks.tolist() for z, clicks in opened.prompts.items()} == {
        1: [[24.5, 8.5, 1]],
        2: [[63.5, 38.5, 1]],
    }
    assert "3 of 5 points are outside the region and are left out" in caplog.text


def test_results_say_where_they_lie(weights: Path, scan: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    result = predict(weights, scan, tmp_path / "part.zarr", roi=ROI, table=table)
    group: Any = zarr.open_group(str(tmp_path / "part.zarr"), mode="r")
    for image in (group, group["labels/instances"]):
        for scales in image.attrs["multiscales"]:
            for dataset in scales["datasets"]:
                assert dataset["coordinateTransformations"] == [
                    {"type": "scale", "scale": [30, 8, 8]},
                    {"type": "translation", "translation": [30, 256, 128]},
                ]
    assert group.attrs["prompt_das"]["region"] == {"z": [1, 3], "y": [32, 96], "x": [16, 80]}
    labels = np.zeros(SHAPE, int)
    labels[INSIDE] = map_of(tmp_path / "part.zarr", INSTANCES)
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result.count > 1
    boxes = scipy.ndimage.find_objects(labels)
    centroids = scipy.ndimage.center_of_mass(labels > 0, labels, range(1, len(rows) + 1))
    for i, row in enumerate(rows):
        assert labels[int(row["z"]), int(row["y"]), int(row["x"])] == int(row["id"]) == i + 1
        for axis, span, center in zip("zyx", boxes[i], centroids[i], strict=True):
            assert (int(row[f"{axis}_start"]), int(row[f"{axis}_stop"])) == (span.start, span.stop)
            assert float(row[f"centroid_{axis}"]) == pytest.approx(center, abs=1e-3)
    predict(weights, scan, tmp_path / "part.h5", roi=ROI)
    with h5py.File(tmp_path / "part.h5") as file:
        assert json.loads(file.attrs["prompt_das"])["region"]["y"] == [32, 96]
        np.testing.assert_array_equal(file["labels"][:], labels[INSIDE])


@pytest.mark.parametrize(
    ("roi", "reason"), [("0:5,:,:", "ends outside of"), (":,5:5,:", "is empty"), ("1", "is not z0")]
)
def test_a_region_that_is_not_there_is_refused_before_the_work(
    weights: Path, scan: Path, tmp_path: Path, roi: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        predict(weights, scan, tmp_path / "part.zarr", roi=roi)
    assert not list(tmp_path.glob("part*"))


def test_another_region_does_not_go_on_with_a_job(
    weights: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(weights, scan, tmp_path / "expected.zarr", roi=ROI)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Stopped):
            predict(weights, scan, tmp_path / "part.zarr", roi=ROI)
    for other in (None, "1:3,32:96,0:64"):
        with pytest.raises(FileExistsError, match=r"begun with other settings \(.*region"):
            predict(weights, scan, tmp_path / "part.zarr", roi=other)
    predict(weights, scan, tmp_path / "part.zarr", roi=ROI)
    assert content(tmp_path / "part.zarr") == content(tmp_path / "expected.zarr")


def elsewhere(work: Any, items: Sequence[Any], **options: Any) -> Iterator[Any]:
    """Work as in another process: what it needs goes there as bytes."""
    work, items = pickle.loads(pickle.dumps((work, items)))  # noqa: S301
    assert "secret" not in repr(items)  # which Dask logs where a task fails
    yield from work(items)


# ---- addresses


def test_an_address_gives_what_the_files_give_and_shows_no_credentials(
    weights: Path, scan: Path, server: ZarrServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.authorization = "Basic dXNlcjpzZWNyZXQ="  # user:secret
    address = server.address.replace("://", "://user:secret@") + "/scan.zarr"
    predict(weights, scan, tmp_path / "here.zarr", roi=ROI)
    predict(weights, Address(address), tmp_path / "there.zarr", roi=ROI, executor=elsewhere)
    assert "secret" not in repr(VolumeSource(address))
    here, there = content(tmp_path / "here.zarr"), content(tmp_path / "there.zarr")
    assert {name for name in here if here[name] != there[name]} == {".zattrs"}
    image = json.loads(there[".zattrs"])["prompt_das"]["image"]
    assert image == {"path": f"{server.address}/scan.zarr", "dataset": None, "slices": 2}
    assert b"secret" not in b"".join(there.values())
    assert "secret" not in caplog.text


def test_data_that_vanish_stop_the_run_and_it_goes_on_when_they_are_back(
    weights: Path, scan: Path, server: ZarrServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, output = f"{server.address}/scan.zarr", tmp_path / "out.zarr"
    predict(weights, address, tmp_path / "expected.zarr")
    original = PromptDAS.predict_slice

    def predict_slice(*args: Any, **kwargs: Any) -> Any:
        if scan.exists():
            scan.rename(tmp_path / "moved.zarr")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PromptDAS, "predict_slice", predict_slice)
        with pytest.raises(RemoteError, match=r"scan\.zarr/.*were the data moved"):
            predict(weights, address, output, on_error="skip")  # no slice that cannot be read, but all of them
    assert not output.exists()
    (tmp_path / "moved.zarr").rename(scan)
    server.requests.clear()
    predict(weights, address, output, on_error="skip")
    assert content(output) == content(tmp_path / "expected.zarr")
    assert not list(tmp_path.glob("*.part"))


def test_other_data_at_the_address_do_not_go_on_with_a_job(
    weights: Path, scan: Path, server: ZarrServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, output = f"{server.address}/scan.zarr", tmp_path / "out.zarr"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Stopped):
            predict(weights, address, output)
    assert "inputs" in (tmp_path / "out.zarr.part" / "settings.json").read_text()
    shutil.copytree(scan, tmp_path / "copy.zarr")
    zarr.open_array(str(scan))[-1] = 1
    with pytest.raises(FileExistsError, match="last_slice"):
        predict(weights, address, output)
    shutil.rmtree(scan)
    shutil.copytree(tmp_path / "copy.zarr", scan)
    zarr.open_array(str(scan)).attrs["resolution"] = [30, 8, 4]
    with pytest.raises(FileExistsError, match=r"inputs: zarr\.json"):
        predict(weights, address, output)


def test_results_are_not_written_to_an_address(weights: Path, scan: Path) -> None:
    with pytest.raises(ValueError, match="results are written to a disk, not to s3://"):
        predict(weights, scan, Path("s3://bucket/out.zarr"))
    assert open_volume(scan).shape == SHAPE
