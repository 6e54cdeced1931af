"""One physical scale: the same thing has the same size in the network, whatever the voxels of its volume."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data import dataset_mapper
from prompt_das.data.build import get_slices
from prompt_das.data.builtin import SYNTHETIC, SYNTHETIC_PIXEL_SIZE
from prompt_das.data.dataset_mapper import SliceMapper, SourceMapper, TargetMapper
from prompt_das.data.datasets import find_volume, register_em_volume
from prompt_das.data.physical_scale import (
    NetworkScale,
    default_scale,
    scale_of_diameter,
    warn_of_size,
    with_diameter,
)

import cv2
import numpy as np
import pytest
import tifffile
from detectron2.config import CfgNode

VOXEL_8, VOXEL_4 = (30.0, 8.0, 8.0), (40.0, 4.0, 4.0)


@pytest.fixture
def cfg() -> CfgNode:
    """16 nm a pixel of the network, crops of 64 pixels without augmentation of their size or place."""
    no_augmentation = ["NOISE_PROBABILITY", "0", "CONTRAST_PROBABILITY", "0", "RIGHT_ANGLES", "False"]
    opts = [f"INPUT.AUGMENTATION.{word}" if "_" in word else word for word in no_augmentation]
    return get_prompt_das_cfg(None, ["INPUT.PIXEL_SIZE", "16", "INPUT.CROP_SIZE", "64", *opts])


def disk(side: int, diameter: int) -> np.ndarray:
    """A white disk in the middle of a black slice."""
    image = np.zeros((1, side, side), np.uint8)
    cv2.circle(image[0], (side // 2, side // 2), diameter // 2, 255, cv2.FILLED)
    return image


def register(folder: Path, name: str, image: np.ndarray, **about: Any) -> str:
    tifffile.imwrite(folder / f"{name}.tif", image, photometric="minisblack")
    tifffile.imwrite(folder / f"{name}_mask.tif", (image > 127).astype(np.uint8), photometric="minisblack")
    register_em_volume(name, folder / f"{name}.tif", folder / f"{name}_mask.tif", label_type="semantic", **about)
    return name


@pytest.fixture
def volumes(tmp_path: Path, forget_new_names: None) -> tuple[str, str]:
    """The same tissue, a disk of 320 nm on 1024 nm, at 8 nm and at 4 nm a pixel."""
    return (
        register(tmp_path, "coarse", disk(128, 40), voxel_size=VOXEL_8),
        register(tmp_path, "fine", disk(256, 80), voxel_size=VOXEL_4),
    )


# ---- the function


@pytest.mark.parametrize(
    ("scale", "pixel_size", "voxel_size", "expected"),
    [
        (0.25, 0.0, None, 0.25),  # off: as ever
        (0.25, 0.0, VOXEL_8, 0.25),
        (1.0, 16.0, VOXEL_8, 0.5),
        (1.0, 16.0, VOXEL_4, 0.25),
        (1.0, 16.0, (50, 4.0, 4.16), math.sqrt(4.0 * 4.16) / 16),  # nearly square: their mean
        (0.3, 16.0, VOXEL_8, 0.3),  # the override
        (0.3, 16.0, None, 0.3),
    ],
)
def test_the_scale_of_a_volume(scale: float, pixel_size: float, voxel_size: Any, expected: float) -> None:
    assert NetworkScale(scale, pixel_size).of(voxel_size, "lab") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("voxel_size", "message"),
    [
        (None, r"lab: its voxel size is not known.*--voxel-size Z Y X.*--diameter D"),
        ((0.03, 0.008, 0.008), r"lab: .* in nanometers; 0.03 0.008 0.008 looks like µm: that is 30 8 8 nm"),
        ((30, 8, 4), r"lab: its pixels are 8 x 4 nm"),
        ((8, 8, 30), r"lab: its pixels are 8 x 30 nm \(y, x\).*order of its voxel size, which is z, y, x"),
        ((30000, 8000, 8000), r"lab: pixels of 8000 x 8000 nm would make 500 pixels of the network.* µm given as nm"),
        ((30, 0.1, 0.1), r"lab: .*0.00625 pixels of the network.*is it really in nm"),
    ],
)
def test_a_voxel_size_that_does_not_do_is_refused(voxel_size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkScale(1.0, 16.0).of(voxel_size, "lab")


def test_a_diameter_makes_objects_as_large_as_in_training(cfg: CfgNode) -> None:
    assert scale_of_diameter(cfg, 29) == 0.5  # 14.5 pixels of the network
    fixed = get_prompt_das_cfg(None, with_diameter(cfg, 14.5))  # 1.0: PIXEL_SIZE must not take over again
    assert NetworkScale.from_config(fixed).of(None, "lab") == 1.0


def test_a_diameter_that_cannot_be_is_refused(cfg: CfgNode) -> None:
    for diameter in (0.0, -3.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="the diameter is"):
            scale_of_diameter(cfg, diameter)
    with pytest.raises(ValueError, match=r"a diameter of 1 pixels would make 14.5 pixels"):
        scale_of_diameter(cfg, 1)
    with pytest.raises(ValueError, match=r"not \(INPUT.PIXEL_SIZE is 0\): set INPUT.SCALE"):
        scale_of_diameter(get_prompt_das_cfg(), 36)


def test_the_scale_of_images_without_a_volume(cfg: CfgNode) -> None:
    assert default_scale(cfg, None, None) is None
    assert default_scale(cfg, 8, None) == 0.5
    assert default_scale(cfg, None, 29) == 0.5
    assert default_scale(get_prompt_das_cfg(None, ["INPUT.SCALE", "0.25"]), None, None) == 0.25
    with pytest.raises(ValueError, match="looks like µm"):
        default_scale(cfg, 0.008, None)
    with pytest.raises(ValueError, match="not both"):
        default_scale(cfg, 8, 36)
    with pytest.raises(ValueError, match=r"INPUT.PIXEL_SIZE is 0"):
        default_scale(get_prompt_das_cfg(), 8, None)


def test_a_pixel_size_in_micrometers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"INPUT.PIXEL_SIZE is 0.016.*looks like µm: that is 16 nm"):
        get_prompt_das_cfg(None, ["INPUT.PIXEL_SIZE", "0.016"])


def test_objects_of_another_size_are_a_warning(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "prompt_das")
    area = np.full(9, math.pi * 20**2)  # 40 pixels across
    warn_of_size(cfg, area, 0.5, "lab")  # 20 of the network, where it knows 14.5
    specks = np.concatenate([area / 2, np.full(50, 10.0)])  # more than objects, and little of what was found
    warn_of_size(cfg, specks, 0.5, "lab")
    warn_of_size(cfg, area[:2], 4.0, "lab")  # two are not typical of anything
    warn_of_size(get_prompt_das_cfg(), area, 1.0, "lab")  # no physical scale
    assert not caplog.records
    warn_of_size(cfg, area, 1.0, "lab")
    assert "lab: what was found has a typical diameter of 40.0 pixels (40.0 of the network)" in caplog.text
    assert "14.5" in caplog.text
    assert "--diameter" in caplog.text


# ---- volumes


def white(image: Any) -> float:
    """Area of what is white, in pixels of the network."""
    return float((image > 127).sum())


def test_the_same_disk_has_the_same_size_in_crops_of_source_and_target(
    cfg: CfgNode, volumes: tuple[str, str], rng: np.random.Generator
) -> None:
    coarse, fine = (get_slices((name,))[0] for name in volumes)
    area = math.pi * 10**2  # 320 nm are 20 pixels of 16 nm
    source = SourceMapper(cfg)
    for dataset_dict in (coarse, fine):
        sample = source(dataset_dict, rng)
        assert sample["image"].shape == (1, 64, 64)
        assert sample["box"] == (0, 0, dataset_dict["height"], dataset_dict["width"])
        assert white(sample["image"]) == pytest.approx(area, rel=0.1)
        assert float(sample["mask"].sum()) == pytest.approx(area, rel=0.1)
        np.testing.assert_allclose(sample["points"].numpy(), [[32, 32]], atol=1)
    center = {"coarse": {0: np.array([[64, 64]], np.float32)}, "fine": {0: np.array([[128, 128]], np.float32)}}
    target = TargetMapper(cfg, center)
    for dataset_dict in (coarse, fine):
        sample = target(dataset_dict, rng)
        assert white(sample["weak_image"]) == pytest.approx(area, rel=0.1)
        assert sample["sparse_points"].tolist() == [[32, 32]]


def test_synthetic_micrographs_are_drawn_at_the_physical_scale(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    drawn: list[float] = []
    make = dataset_mapper.make_micrograph
    monkeypatch.setattr(
        dataset_mapper, "make_micrograph", lambda rng, size, nm: drawn.append(nm) or make(rng, size, nm)
    )
    (synthetic,) = get_slices((SYNTHETIC,))
    assert SourceMapper(cfg)(synthetic, rng)["image"].shape == (1, 64, 64)
    SourceMapper(get_prompt_das_cfg(None, ["INPUT.CROP_SIZE", "64"]))(synthetic, rng)
    cfg.defrost()
    cfg.INPUT.SYNTHETIC_PIXEL_SIZE = 12.0  # of weights that were trained at it, and predict at another one
    SourceMapper(cfg)(synthetic, rng)
    assert drawn == [16, SYNTHETIC_PIXEL_SIZE, 12]


def test_slices_are_evaluated_at_their_own_scale(cfg: CfgNode, volumes: tuple[str, str]) -> None:
    for name, side in zip(volumes, (128, 256), strict=True):
        sample = SliceMapper(cfg)(get_slices((name,))[0])
        assert sample["image"].shape == (1, 64, 64)
        assert (sample["height"], sample["width"]) == sample["instances"].shape == (side, side)


def test_what_is_registered_wins_over_metadata_and_what_is_typed_over_both(
    tmp_path: Path, forget_new_names: None
) -> None:
    path = tmp_path / "scan.tif"
    metadata = {"spacing": 0.05, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint8), imagej=True, resolution=(200, 200), metadata=metadata)
    slices, spec = find_volume(path)
    assert slices[1]["voxel_size"] == spec.voxel_size == pytest.approx((50, 5, 5))
    assert find_volume(path, voxel_size=VOXEL_8)[1].voxel_size == VOXEL_8
    register_em_volume("lab_of_scale", path, voxel_size=VOXEL_4)
    assert get_slices(("lab_of_scale",))[0]["voxel_size"] == VOXEL_4
    slices, spec = find_volume("lab_of_scale", voxel_size=VOXEL_8)
    assert slices[0]["voxel_size"] == spec.voxel_size == VOXEL_8
    register_em_volume("lab_of_scale_2", path)
    assert find_volume("lab_of_scale_2")[1].voxel_size == pytest.approx((50, 5, 5))


def test_micrometers_are_refused_where_a_volume_is_described(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine: the voxel size is in nanometers; 0.03 0.008 0.008 looks like µm"):
        register_em_volume("mine", tmp_path / "scan.tif", voxel_size=(0.03, 0.008, 0.008))
