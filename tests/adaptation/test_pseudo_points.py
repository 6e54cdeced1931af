"""The points that the source model makes for the unsupervised mode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prompt_das.adaptation.pseudo_points import PseudoSparsePoints, predict_points
from prompt_das.data.build import get_slices
from prompt_das.modeling.meta_arch import Prediction
from prompt_das.ops.points import render_density
from prompt_das.volumes.resize import resize_image
from prompt_das.volumes.volume import VolumeError

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor

PEAKS = {"threshold": 0.49, "kernel": 5, "top_k": 4096}
TARGET = "synthetic_target_train"


class Teacher:
    """Takes an image for the density itself: gray 255 is a density of 1."""

    device = torch.device("cpu")
    window = {"window": 32, "stride": 16, "rotations": 1, "blend": "uniform", "batch_size": 4}  # noqa: RUF012

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(
        self, embedding: Tensor, points: Tensor, valid: Tensor, size: tuple[int, int], *, with_mask: bool
    ) -> Prediction:
        assert points.shape == (len(embedding), 0, 2)  # the model finds them by itself: nothing is prompted
        assert valid.shape == (len(embedding), 0)
        assert not with_mask
        assert size == (32, 32)
        assert not torch.is_grad_enabled()
        return Prediction(torch.empty(len(embedding), 0, 0), embedding[:, 0] / 255, torch.empty(len(embedding), 0, 1))


def image_of(points: np.ndarray, size: tuple[int, int], sigma: float = 3.0) -> np.ndarray:
    """An image that the teacher sees ``points`` on."""
    valid = torch.ones(1, len(points), dtype=torch.bool)
    return 255 * render_density(torch.from_numpy(points)[None], valid, size, sigma)[0].numpy()


def in_order(points: np.ndarray) -> list[list[float]]:
    return sorted(points.tolist())


@pytest.mark.parametrize("size", [(96, 70), (32, 32), (20, 25)])
def test_points_of_a_slice_of_any_size(size: tuple[int, int]) -> None:
    """Also where windows overlap, at the border, and on a slice smaller than a window."""
    height, width = size
    points = np.array([[0.5, 0.5], [width - 0.5, height - 0.5], [16.5, 10.5]], np.float32)
    assert in_order(predict_points(Teacher(), image_of(points, size), 1.0, PEAKS)) == in_order(points)


def test_points_are_in_pixels_of_the_slice_whatever_the_network_works_at() -> None:
    """At half resolution a point is known to within a pixel of it: two of the slice."""
    points = np.array([[10.5, 40.5], [50.5, 21.5]], np.float32)
    found = predict_points(Teacher(), resize_image(image_of(points, (64, 96), sigma=6), 0.5), 0.5, PEAKS)
    assert np.abs(np.array(in_order(found)) - in_order(points)).max() <= 1


def test_nothing_is_found_on_an_empty_slice() -> None:
    assert predict_points(Teacher(), np.zeros((40, 40), np.float32), 1.0, PEAKS).shape == (0, 2)


def test_a_whole_slice_may_hold_more_than_a_crop() -> None:
    """The 100 highest peaks are enough for a crop, not for a slice of MitoEM with its 500 instances."""
    xs, ys = np.meshgrid(np.arange(5.5, 100, 8), np.arange(5.5, 100, 8))
    points = np.stack([xs.ravel(), ys.ravel()], axis=1).astype(np.float32)
    assert len(points) == 144
    assert in_order(predict_points(Teacher(), image_of(points, (104, 104), 1.5), 1.0, PEAKS)) == in_order(points)


# ---- the hook


@pytest.fixture
def cfg(tiny_cfg: CfgNode, synthetic_data: Path) -> CfgNode:
    tiny_cfg.DATASETS.TARGET = (TARGET,)
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DOMAIN_ADAPT.BURN_IN_ITERS = True, 4
    return tiny_cfg


def train(hook: PseudoSparsePoints, *iterations: int) -> None:
    for i in iterations:
        hook.trainer = SimpleNamespace(iter=i)
        hook.before_step()


def test_points_are_made_between_burn_in_and_adaptation(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        "prompt_das.adaptation.pseudo_points.predict_points",
        lambda teacher, image, scale, peaks: seen.append(image.shape) or np.array([[len(seen), 2.5]], np.float32),
    )
    hook = PseudoSparsePoints(cfg, Teacher())
    train(hook, 0, 1, 2, 3)
    assert not seen
    train(hook, 4, 5, 6)
    slices = get_slices((TARGET,))
    assert seen == [(96, 96)] * len(slices)  # each slice once
    points = hook.read()[TARGET]
    assert {z: p.tolist() for z, p in points.items()} == {
        d["slice"]: [[number, 2.5]] for number, d in enumerate(slices, start=1)
    }


def test_a_run_that_goes_on_takes_the_points_that_it_made(cfg: CfgNode) -> None:
    """Resumed later, the teacher is another one: it must not be asked again."""
    train(PseudoSparsePoints(cfg, Teacher()), 4)
    resumed = PseudoSparsePoints(cfg, None)
    train(resumed, 5, 6)
    assert resumed.read()[TARGET].keys() == {d["slice"] for d in get_slices((TARGET,))}


def test_a_slice_that_cannot_be_read_gets_no_points(cfg: CfgNode, spoil: Callable[[str], Path]) -> None:
    path = spoil("target/im/im0001.png")
    with pytest.raises(VolumeError, match=f"MAX_CORRUPT_SLICES allows for 0.*{path}"):
        train(PseudoSparsePoints(cfg, Teacher()), 4)
    cfg.DATALOADER.MAX_CORRUPT_SLICES = 1
    hook = PseudoSparsePoints(cfg, Teacher())
    train(hook, 4)
    assert sorted(hook.read()[TARGET]) == [0, 2, 3]


def test_points_of_an_earlier_run_in_the_same_folder_are_replaced(cfg: CfgNode) -> None:
    hook = PseudoSparsePoints(cfg, Teacher())
    train(hook, 4)
    fresh = hook.path(TARGET).read_text()
    hook.path(TARGET).write_text(fresh.replace("[[", "[[9.5, 9.5], [", 1))
    assert hook.path(TARGET).read_text() != fresh
    train(hook, 4)
    assert hook.path(TARGET).read_text() == fresh


def test_the_thresholds_of_the_config_are_used(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DOMAIN_ADAPT.POINTS.UDA_THRESHOLD, cfg.DOMAIN_ADAPT.POINTS.KERNEL, cfg.INPUT.SCALE = 0.6, 7, 0.5
    asked: list[Any] = []
    monkeypatch.setattr(
        "prompt_das.adaptation.pseudo_points.predict_points",
        lambda teacher, image, scale, peaks: asked.append((scale, peaks)) or np.zeros((0, 2), np.float32),
    )
    train(PseudoSparsePoints(cfg, Teacher()), 4)
    assert asked[0] == (0.5, {"threshold": 0.6, "kernel": 7, "top_k": 4096})


def test_points_are_found_at_the_physical_scale(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic volumes have 8 nm a pixel."""
    cfg.INPUT.SCALE, cfg.INPUT.PIXEL_SIZE = 1.0, 16.0
    asked: list[Any] = []
    monkeypatch.setattr(
        "prompt_das.adaptation.pseudo_points.predict_points",
        lambda teacher, image, scale, peaks: asked.append((scale, image.shape)) or np.zeros((0, 2), np.float32),
    )
    train(PseudoSparsePoints(cfg, Teacher()), 4)
    assert asked[0] == (0.5, (48, 48))


def test_a_source_model_that_finds_nothing_is_warned_of(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "prompt_das.adaptation.pseudo_points.predict_points", lambda *args: np.zeros((0, 2), np.float32)
    )
    hook = PseudoSparsePoints(cfg, Teacher())
    with caplog.at_level(logging.WARNING):
        train(hook, 4)
    assert f"no center point on {TARGET}" in caplog.text
    assert "UDA_THRESHOLD" in caplog.text
    assert all(points.shape == (0, 2) for points in hook.read()[TARGET].values())


@pytest.mark.parametrize(("per_slice", "warned"), [(90, True), (20, False)])
def test_more_points_than_tissue_can_hold_are_warned_of(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, per_slice: int, warned: bool
) -> None:
    """A disc of radius 2 * 3 pixels has 113 pixels: 90 of them cover 110 % of 96 x 96 pixels, 20 of them 25 %."""
    monkeypatch.setattr(
        "prompt_das.adaptation.pseudo_points.predict_points", lambda *args: np.full((per_slice, 2), 5, np.float32)
    )
    with caplog.at_level(logging.WARNING):
        train(PseudoSparsePoints(cfg, Teacher()), 4)
    assert ("would cover 110 % of the tissue" in caplog.text) is warned


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_slices_are_shared_out_over_the_processes(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    module = "prompt_das.adaptation.pseudo_points"
    monkeypatch.setattr(f"{module}.comm.get_world_size", lambda: world_size)
    parts: list[dict] = []
    for rank in range(world_size):
        monkeypatch.setattr(f"{module}.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(f"{module}.comm.all_gather", lambda mine: parts.append(mine) or parts)
        train(PseudoSparsePoints(cfg, Teacher()), 4)
    every = [z for part in parts for z in part]
    assert sorted(every) == [d["slice"] for d in get_slices((TARGET,))]
    assert all(parts)
