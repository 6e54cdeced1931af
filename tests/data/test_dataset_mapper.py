"""From a slice to a training crop, or to a slice for evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from prompt_das.data import dataset_mapper
from prompt_das.data.augmentation import StrongAugmentation
from prompt_das.data.build import get_slices
from prompt_das.data.crop_reader import CropReader
from prompt_das.data.dataset_mapper import SliceMapper, SourceMapper, TargetMapper, random_subset
from prompt_das.data.slice_listing import load_slices
from prompt_das.data.volume_spec import VolumeSpec
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import instance_centers

import numpy as np
import pytest
import tifffile
import torch
from detectron2.config import CfgNode

GEOMETRY_ONLY = StrongAugmentation(noise_probability=0, contrast_probability=0)  # the eight flips and turns
CYTOPLASM, MITOCHONDRION = 50, 150  # gray values that tell where a pixel of a crop came from


def write_volume(folder: Path, labels: np.ndarray, images: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Slices of a volume whose images show what their labels (Z, H, W) say."""
    if images is None:
        images = np.where(labels > 0, MITOCHONDRION, CYTOPLASM).astype(np.uint8)
    tifffile.imwrite(folder / "images.tif", images, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint16), photometric="minisblack")
    return load_slices("demo", VolumeSpec(str(folder / "images.tif"), str(folder / "labels.tif")))


def squares(height: int = 96, width: int = 128, every: int = 24, side: int = 9) -> np.ndarray:
    """One slice with a square instance every so many pixels."""
    labels = np.zeros((1, height, width), np.uint16)
    for number, (y, x) in enumerate(np.ndindex(height // every, width // every), start=1):
        labels[0, y * every + 3 : y * every + 3 + side, x * every + 5 : x * every + 5 + side] = number
    return labels


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    return write_volume(tmp_path, squares())[0]


def source_mapper(size: int = 32, scale: float = 1.0, foreground: float = 0.7) -> SourceMapper:
    return SourceMapper(crop=CropReader(size, scale), augmentation=GEOMETRY_ONLY, foreground_probability=foreground)


def target_mapper(points: np.ndarray, size: int = 32, scale: float = 1.0, foreground: float = 0.7) -> TargetMapper:
    return TargetMapper(
        crop=CropReader(size, scale),
        augmentation=GEOMETRY_ONLY,
        foreground_probability=foreground,
        sparse_points={"demo": {0: points}, "another": {0: points + 1}},
    )


def centers_of(labels: np.ndarray) -> np.ndarray:
    return instance_centers(labels)[1]


def centers(item: dict[str, Any]) -> np.ndarray:
    return centers_of(tifffile.imread(item["label_file_name"]).reshape(96, 128))


def at(image: np.ndarray | torch.Tensor, points: np.ndarray) -> list[float]:
    """Values of the pixels that hold the points."""
    return [float(image[int(y), int(x)]) for x, y in points]


# ---- random subsets


def test_every_size_of_a_subset_is_equally_likely_and_so_is_every_point() -> None:
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    rng = np.random.default_rng(0)
    subsets = [random_subset(points, rng) for _ in range(4000)]
    sizes = np.bincount([len(s) for s in subsets])
    assert sizes.shape == (4,)
    assert np.abs(sizes - 1000).max() < 110  # four standard deviations
    chosen = np.bincount([int(x) // 2 for s in subsets for x, _ in s])
    assert np.abs(chosen - 2000).max() < 130
    assert all(len({tuple(p) for p in s}) == len(s) for s in subsets)


def test_a_subset_of_nothing_is_nothing() -> None:
    assert random_subset(np.zeros((0, 2)), np.random.default_rng(0)).shape == (0, 2)


# ---- source


def test_a_source_sample_shows_what_its_mask_and_points_say(item: dict[str, Any]) -> None:
    """Whatever flip or turn it got."""
    for n in range(20):
        sample = source_mapper()(item, np.random.default_rng(n))
        image, mask = sample["image"][0].numpy(), sample["mask"].numpy()
        assert sample["image"].shape == (1, 32, 32)
        assert sample["image"].dtype == torch.float32
        np.testing.assert_array_equal(mask, image == MITOCHONDRION)
        assert at(mask, sample["points"]) == [1] * len(sample["points"])
        assert len(sample["points"]) == connected_components(mask).max()
        assert (sample["prompts"][:, 2] == 1).all()
        prompts = {tuple(p) for p in sample["prompts"][:, :2].tolist()}
        assert len(prompts) == len(sample["prompts"])
        assert prompts <= {tuple(p) for p in sample["points"].tolist()}
        assert (sample["domain"], sample["image_id"]) == ("source", "demo/0000")


def test_all_eight_views_occur(item: dict[str, Any]) -> None:
    """A slice that is not larger than one crop."""
    corner = np.zeros((1, 32, 32), np.uint16)
    corner[0, 2:6, 10:14] = 1
    folder = Path(item["file_name"]).parent / "corner"
    folder.mkdir()
    (small,) = write_volume(folder, corner)
    views = {source_mapper()(small, np.random.default_rng(n))["mask"].numpy().tobytes() for n in range(60)}
    assert len(views) == 8


def test_the_crop_is_the_part_of_the_slice_that_its_box_says(tmp_path: Path) -> None:
    """Every pixel of the slice has its own gray value."""
    images = np.arange(40 * 50, dtype=np.uint16).reshape(1, 40, 50)
    tifffile.imwrite(tmp_path / "images.tif", images)
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros((1, 40, 50), np.uint8))
    spec = VolumeSpec(str(tmp_path / "images.tif"), str(tmp_path / "labels.tif"), intensity_range=(0, 2000))
    (d,) = load_slices("demo", spec)
    sample = source_mapper(16)(d, np.random.default_rng(0))
    y0, x0, y1, x1 = sample["box"]
    expected = images[0, y0:y1, x0:x1] * (255 / 2000)
    np.testing.assert_allclose(np.sort(sample["image"].numpy().ravel()), np.sort(expected.ravel()), rtol=1e-5)


def test_an_instance_that_the_border_cuts_has_its_center_in_the_crop(tmp_path: Path) -> None:
    """Points are centers of what the crop shows, not of the whole instance, which may lie outside."""
    labels = np.zeros((1, 64, 64), np.uint16)
    labels[0, :, 20:60] = 1  # wider than any crop of 16
    (d,) = write_volume(tmp_path, labels)
    for n in range(20):
        sample = source_mapper(16, foreground=1.0)(d, np.random.default_rng(n))
        assert len(sample["points"]) == 1
        assert at(sample["mask"], sample["points"]) == [1]


def test_the_mask_follows_the_image_at_half_resolution(item: dict[str, Any]) -> None:
    for n in range(5):
        sample = source_mapper(32, 0.5)(item, np.random.default_rng(n))
        image, mask = sample["image"][0].numpy(), sample["mask"].numpy()
        assert image.shape == mask.shape == (32, 32)
        assert np.mean(mask == (image > 100)) > 0.9  # but for the rims, where gray values are mixed
        assert min(at(image, sample["points"])) >= 75  # at least one of the four pixels is a mitochondrion's


@pytest.mark.parametrize(("foreground", "share"), [(0.0, 0.25), (0.7, 0.7 + 0.3 * 0.25), (1.0, 1.0)])
def test_so_many_crops_are_made_to_contain_an_instance(tmp_path: Path, foreground: float, share: float) -> None:
    """A quarter of all crops of 8 do by themselves; the others do with the given probability (and ten tries)."""
    labels = np.zeros((1, 207, 8), np.uint16)
    labels[0, 100:143] = 1  # a crop starts in one of 200 rows; 50 of them reach these 43
    (d,) = write_volume(tmp_path, labels)
    mapper = source_mapper(8, foreground=foreground)
    with_instance = np.mean([mapper(d, np.random.default_rng(n))["mask"].any() for n in range(400)])
    missed = foreground * 0.75**10
    assert with_instance == pytest.approx(share - missed, abs=4 * math.sqrt(0.25 * 0.75 / 400))


# ---- target


def test_the_student_s_view_is_the_teacher_s_moved_by_the_geometric_transforms(item: dict[str, Any]) -> None:
    points = centers(item)
    for n in range(20):
        sample = target_mapper(points)(item, np.random.default_rng(n))
        weak, strong = sample["weak_image"][0].numpy(), sample["image"][0].numpy()
        assert weak.shape == strong.shape == (32, 32)
        np.testing.assert_array_equal(strong, weak.ravel()[sample["inverse_pixel_map"]])
        y0, x0, y1, x1 = sample["box"]
        np.testing.assert_array_equal(weak, tifffile.imread(item["file_name"]).reshape(96, 128)[y0:y1, x0:x1])
        moved = sample["strong_sparse_points"]
        assert at(weak, sample["sparse_points"]) == [MITOCHONDRION] * len(moved)
        assert at(strong, moved) == [MITOCHONDRION] * len(moved)
        assert (sample["domain"], sample["image_id"]) == ("target", "demo/0000")


def test_photometric_changes_are_for_the_student_only(item: dict[str, Any]) -> None:
    mapper = target_mapper(centers(item))
    mapper.augmentation = StrongAugmentation(right_angles=False, noise_probability=1.0, contrast_probability=1.0)
    sample = mapper(item, np.random.default_rng(0))
    assert set(sample["weak_image"].unique().tolist()) == {CYTOPLASM, MITOCHONDRION}
    assert len(sample["image"].unique()) > 100


def test_sparse_points_are_those_inside_the_crop(item: dict[str, Any]) -> None:
    points = centers(item)
    for n in range(20):
        sample = target_mapper(points)(item, np.random.default_rng(n))
        y0, x0, y1, x1 = sample["box"]
        expected = [[x - x0, y - y0] for x, y in points.tolist() if x0 <= x < x1 and y0 <= y < y1]
        assert sample["sparse_points"].tolist() == expected


def test_no_label_of_the_target_is_ever_read(item: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise AssertionError("the target's labels are not for training")

    points = centers(item)
    monkeypatch.setattr(dataset_mapper, "read_labels", forbidden)
    target_mapper(points)(item, np.random.default_rng(0))


def test_points_belong_to_their_own_data_set_and_slice(tmp_path: Path) -> None:
    first, second = write_volume(tmp_path, np.repeat(squares(), 2, axis=0))
    mapper = target_mapper(centers_of(squares()[0]), foreground=1.0)
    assert len(mapper(first, np.random.default_rng(0))["sparse_points"]) > 0
    for other in (second, {**first, "dataset_name": "unknown"}):
        assert len(mapper(other, np.random.default_rng(0))["sparse_points"]) == 0


@pytest.mark.parametrize("foreground", [0.0, 0.7, 1.0])
def test_so_many_crops_are_taken_around_a_sparse_point(tmp_path: Path, foreground: float) -> None:
    """One point in a slice so large that a crop holds it by chance once in 6000 times."""
    (d,) = write_volume(tmp_path, np.zeros((1, 640, 640), np.uint16))
    mapper = target_mapper(np.array([[300.5, 200.5]], np.float32), 8, foreground=foreground)
    count = sum(len(mapper(d, np.random.default_rng(n))["sparse_points"]) for n in range(300))
    assert count / 300 == pytest.approx(foreground, abs=4 * math.sqrt(foreground * (1 - foreground) / 300) + 0.01)


def test_crops_are_taken_around_every_point(item: dict[str, Any]) -> None:
    points = centers(item)
    mapper = target_mapper(points, 8, foreground=1.0)
    boxes = [mapper(item, np.random.default_rng(n))["box"] for n in range(150)]
    seen = {(x, y) for x, y in points.tolist() for y0, x0, y1, x1 in boxes if x0 <= x < x1 and y0 <= y < y1}
    assert len(seen) == len(points)


def test_a_slice_without_points_gives_crops_from_anywhere(item: dict[str, Any]) -> None:
    mapper = target_mapper(np.zeros((0, 2), np.float32), foreground=1.0)
    boxes = {mapper(item, np.random.default_rng(n))["box"] for n in range(10)}
    assert len(boxes) > 5


# ---- reproducibility


@pytest.mark.parametrize("make", [source_mapper, lambda: target_mapper(np.array([[40.5, 30.5]], np.float32))])
def test_a_sample_depends_on_nothing_but_its_generator(item: dict[str, Any], make: Any) -> None:
    """Not on global random numbers, nor does it touch them."""
    samples = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        samples.append(make()(item, np.random.default_rng([7, 3])))
        assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    a, b = samples
    assert a["box"] == b["box"]
    assert torch.equal(a["image"], b["image"])
    assert a.get("seed") == b.get("seed")
    other = make()(item, np.random.default_rng([7, 4]))
    assert not torch.equal(a["image"], other["image"])


# ---- evaluation


def test_a_whole_slice_with_a_prompt_set_for_each_share(item: dict[str, Any]) -> None:
    sample = SliceMapper(scale=1.0, prompt_ratios=(0.0, 0.15, 0.5, 1.0), prompt_seed=0)(item)
    points = centers(item)
    assert len(points) == 20
    assert {share: len(p) for share, p in sample["prompts"].items()} == {"0%": 0, "15%": 3, "50%": 10, "100%": 20}
    assert sample["prompts"]["100%"].tolist() == points.tolist()
    sets = [{tuple(p) for p in sample["prompts"][share]} for share in ("15%", "50%", "100%")]
    assert sets[0] < sets[1] < sets[2]  # a larger share only adds prompts
    assert sample["image"].shape == (1, 96, 128)
    assert (sample["height"], sample["width"]) == (96, 128)
    np.testing.assert_array_equal(sample["instances"], tifffile.imread(item["label_file_name"]).reshape(96, 128))


def test_at_half_resolution_only_the_image_is_smaller(item: dict[str, Any]) -> None:
    """Labels and prompts stay in pixels of the slice, which the metrics are measured in."""
    whole, half = (SliceMapper(scale=scale, prompt_ratios=(0.5,), prompt_seed=0)(item) for scale in (1.0, 0.5))
    assert half["image"].shape == (1, 48, 64)
    assert half["instances"].shape == (half["height"], half["width"]) == (96, 128)
    assert half["prompts"]["50%"].tolist() == whole["prompts"]["50%"].tolist()
    assert half["image"].mean().item() == pytest.approx(whole["image"].mean().item(), rel=0.01)


def test_prompts_are_seeded_slice_by_slice(tmp_path: Path) -> None:
    slices = write_volume(tmp_path, np.repeat(squares(), 2, axis=0))

    def prompts(z: int, seed: int) -> list[list[float]]:
        return SliceMapper(scale=1.0, prompt_ratios=(0.5,), prompt_seed=seed)(slices[z])["prompts"]["50%"].tolist()

    assert prompts(0, 0) == prompts(0, 0)
    assert prompts(0, 0) != prompts(0, 1)
    assert prompts(0, 0) != prompts(1, 0)  # the same instances, but another slice


# ---- config


def test_the_keys_of_the_config_reach_the_mappers(tiny_cfg: CfgNode) -> None:
    node = tiny_cfg.INPUT
    node.CROP_SIZE, node.SCALE, node.FOREGROUND_PROBABILITY = 48, 0.25, 0.3
    node.AUGMENTATION.RIGHT_ANGLES, node.AUGMENTATION.NOISE_PROBABILITY, node.AUGMENTATION.CONTRAST_RANGE = (
        False,
        0.9,
        (0.5, 2.0),
    )
    source, target = SourceMapper(tiny_cfg), TargetMapper(tiny_cfg, {})
    for mapper in (source, target):
        assert (mapper.crop.size, mapper.crop.side, mapper.foreground_probability) == (48, 192, 0.3)
        assert not mapper.augmentation.right_angles
        assert mapper.augmentation.noise_probability == 0.9
        assert mapper.augmentation.contrast_range == (0.5, 2.0)
    assert SliceMapper(tiny_cfg).prompt_ratios == (0.0, 0.15, 0.5, 1.0)


def test_a_share_of_target_crops_has_no_prompt(tiny_cfg: CfgNode, synthetic_data: Path) -> None:
    tiny_cfg.DOMAIN_ADAPT.UNPROMPTED_PROBABILITY = 0.7
    mapper = TargetMapper(tiny_cfg, {})
    (first, *_) = get_slices(("synthetic_target_train",))
    ratios = [float(mapper(first, np.random.default_rng(n))["prompt_ratio"]) for n in range(100)]
    assert ratios.count(0.0) == pytest.approx(70, abs=14)  # three standard deviations
