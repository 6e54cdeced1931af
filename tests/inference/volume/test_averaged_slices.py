"""Volumes whose slices are averaged with their neighbors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.inference.volume import averaged_slices
from prompt_das.inference.volume.executors import AT_ONCE
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.inference.volume.slice_tasks import SliceTask, with_neighbors
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import load_model
from prompt_das.modeling.meta_arch import NO_PROMPTS
from prompt_das.ops.depth_average import average_log_odds, depth_weights, to_log_odds
from prompt_das.ops.weak_components import suppress_weak_components
from prompt_das.volumes.ome_zarr import finest
from prompt_das.volumes.point_files import write_points

import numpy as np
import pytest
import torch
import zarr

SHAPE = (5, 48, 40)
VOXEL_SIZE = (25.0, 5.0, 5.0)
SIGMA = ("TEST.DEPTH_SIGMA", "25.0")
WEIGHTS = depth_weights(25.0, 25.0).tolist()  # of a slice and two on either side
STEP = 0.51 / 255  # maps are stored as 256 values, and averaged in half precision
Predict = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def predict(weights: Path, folder: Path, tmp_path: Path) -> Predict:
    """`predict_volume` with averages -> the stored maps."""

    def run(
        name: str = "out.zarr",
        *opts: str,
        points: dict[int, np.ndarray] | None = None,
        voxel_size: Any = VOXEL_SIZE,
        settings: VolumeSettings | None = None,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        if points is not None:
            write_points(tmp_path / "points.json", points)
        source = VolumeSource(
            folder, voxel_size=voxel_size, points=None if points is None else tmp_path / "points.json"
        )
        opts = (*SIGMA, *opts)
        predict_volume(weights, source, tmp_path / name, settings, opts=opts, progress=False, **kwargs)
        group = zarr.open_group(str(tmp_path / name), mode="r")
        return {key: np.asarray(finest(group, key)) / 255 for key in ("probability", "density")}

    return run


def alone(weights: Path, slices: np.ndarray) -> torch.Tensor:
    """The probability (Z, H, W) of each slice by itself."""
    _, model = load_model(weights)
    scan = torch.from_numpy(slices.astype(np.float32))[:, None]
    return torch.stack([model.predict_slice(one, NO_PROMPTS, SHAPE[1:])["sem_seg"]["0%"] for one in scan])


def averaged(probability: torch.Tensor, z: int, leave_out: tuple[int, ...] = ()) -> torch.Tensor:
    near = [other for other in range(len(probability)) if abs(other - z) < len(WEIGHTS) and other not in leave_out]
    return average_log_odds(
        [to_log_odds(probability[other]) for other in near], [WEIGHTS[abs(other - z)] for other in near]
    )


def test_the_stored_probability_is_the_average(predict: Predict, weights: Path, slices: np.ndarray) -> None:
    stored, own = predict()["probability"], alone(weights, slices)
    for z in range(SHAPE[0]):
        expected = averaged(own, z).numpy()
        assert np.abs(stored[z] - expected).max() <= STEP
        assert np.abs(stored[z] - own[z].numpy()).max() > 0.01


def test_slices_whose_distance_is_not_known_or_too_large_are_alone(
    predict: Predict, weights: Path, slices: np.ndarray
) -> None:
    own = alone(weights, slices).numpy()
    for name, voxel_size in (("unknown.zarr", None), ("far.zarr", (51.0, 5.0, 5.0))):
        assert np.abs(predict(name, voxel_size=voxel_size)["probability"] - own).max() <= STEP


def test_objects_are_left_out_by_their_average(predict: Predict, weights: Path, slices: np.ndarray) -> None:
    """A component is as sure as its average, not as the slice in which the network is surest."""
    own = alone(weights, slices)
    averages = torch.stack([averaged(own, z) for z in range(SHAPE[0])]).numpy()
    confidence = (0.5 + averages.max()) / 2
    stored = predict("sure.zarr", "TEST.MIN_CONFIDENCE", str(confidence))["probability"]
    none = np.zeros((0, 3), np.float32)
    expected = np.stack([suppress_weak_components(one, confidence, none) for one in averages])
    assert 0 < (expected > 0.5).sum() < (averages > 0.5).sum()
    assert np.array_equal(stored > 0.5, expected > 0.5)


@pytest.mark.parametrize("reach", ["image", "object"])
def test_what_a_click_adds_or_removes_does_not_depend_on_the_neighbors(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, reach: str
) -> None:
    """A network that finds an object in the left half, but none where it is clicked on; and one where it is."""

    def predict_slice(
        model: PromptDAS, image: torch.Tensor, prompts: dict[str, np.ndarray], size: tuple[int, int], **_: Any
    ) -> dict[str, dict[str, torch.Tensor]]:
        maps = {}
        for name, clicks in prompts.items():
            maps[name] = torch.full(size, 0.1)
            maps[name][:, : size[1] // 4] = 0.95
            for x, y, label in np.reshape(clicks, (-1, 3)):
                x, y = int(x), int(y)
                maps[name][max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = 0.9 if label else 0.05
        return {"sem_seg": maps, "density": maps}

    monkeypatch.setattr(PromptDAS, "predict_slice", predict_slice)
    points = {2: np.array([[30.5, 20.5, 1], [5.5, 30.5, 0]], np.float32)}
    stored = predict("out.zarr", "TEST.CLICK_REACH", reach, points=points)["probability"]
    assert stored[2, 20, 30] > 0.85
    assert stored[2, 30, 5] < 0.1
    assert stored[2, 5, 5] > 0.9
    assert stored[1, 20, 30] < 0.5  # it is clicked on in one slice alone
    assert stored[1, 30, 5] > 0.5
    assert stored[1, 20, 30] > stored[1, 5, 30]  # which its neighbors know of


def test_a_neighbor_that_cannot_be_read_is_left_out(
    predict: Predict, weights: Path, slices: np.ndarray, folder: Path
) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    stored = predict(settings=VolumeSettings(on_error="skip"))["probability"]
    own = alone(weights, slices)
    assert not stored[2].any()
    for z in (0, 1, 3, 4):
        assert np.abs(stored[z] - averaged(own, z, leave_out=(2,)).numpy()).max() <= STEP


def in_parts(size: int) -> Callable[..., Any]:
    """An executor that works on ``size`` slices at a time, the last ones first, as a cluster may."""

    def run(work: Any, items: Any, *, at_once: int = AT_ONCE) -> Any:
        for start in reversed(range(0, len(items), size)):
            yield from work(items[start : start + size])

    return run


@pytest.mark.parametrize("size", [1, 2])
def test_parts_give_the_same_as_the_whole(predict: Predict, size: int) -> None:
    points = {1: np.array([[10.5, 20.5, 1]], np.float32)}
    whole = predict("whole.zarr", points=points)
    parts = predict("parts.zarr", points=points, executor=in_parts(size))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_a_job_that_was_stopped_gives_the_same(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict("whole.zarr")
    log = Workspace.log

    def stop_at_slice_2(work: Workspace, **line: Any) -> None:
        if line.get("slice") == 2:
            raise KeyboardInterrupt
        log(work, **line)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "log", stop_at_slice_2)
        with pytest.raises(KeyboardInterrupt):
            predict()
    assert (tmp_path / "out.zarr.part").exists()
    after = predict()
    assert all(np.array_equal(whole[name], after[name]) for name in whole)


def test_each_slice_is_predicted_once_and_few_are_held(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = averaged_slices._predict_own

    def counted(model: Any, image: Any, task: SliceTask, *rest: Any) -> Any:
        calls.append(task.z)
        return original(model, image, task, *rest)

    monkeypatch.setattr(averaged_slices, "_predict_own", counted)
    predict()
    assert calls == [0, 1, 2, 3, 4]


def test_names_that_count_in_steps_are_warned_of(
    predict: Predict, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict("all.zarr")
    assert "in steps" not in caplog.text
    for z in reversed(range(SHAPE[0])):
        (folder / f"{z}.png").rename(folder / f"{10 * z}.png")
    predict()
    assert "count in steps of 10" in caplog.text
    assert "TEST.DEPTH_SIGMA 0" in caplog.text


def test_neighbors_are_those_that_there_are() -> None:
    tasks = [SliceTask(z, {}, np.zeros((0, 3), np.float32), 1.0) for z in range(4)]
    neighbors = [[one.z for one in task.neighbors] for task in with_neighbors(tasks, 2)]
    assert neighbors == [[1, 2], [0, 2, 3], [0, 1, 3], [1, 2]]
    assert with_neighbors(tasks, 0) == [dataclasses.replace(task, neighbors=()) for task in tasks]
