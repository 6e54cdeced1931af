"""The predictor: its answers are those of the network, and bad input is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.modeling import PromptDAS
from prompt_das.ops.connected_components import connected_components, remove_small, semantic_to_instances
from prompt_das.ops.points import find_peaks
from prompt_das.ops.sliding_window import sliding_window
from prompt_das.ops.split_instances import split_at_centers
from prompt_das.volumes.resize import resize_image

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from predictor_harness import IMAGE, NONE, POINTS, Calls, Make, by_the_network, gray, make_again, tiny_predictor

# ---- the answer is the network's


@pytest.mark.parametrize("scale", ["1.0", "0.5", "0.3", "1.7"])
@pytest.mark.parametrize("size", [(70, 60), (150, 97), (20, 90), (5, 7), (1, 1)])
def test_the_probability_is_that_of_the_sliding_window(make: Make, scale: str, size: tuple[int, int]) -> None:
    """Also of slices smaller than a window, and when the network works at another resolution than the slice."""
    predictor, image = make("INPUT.SCALE", scale), gray(1, *size)
    points = np.random.default_rng(2).uniform(0, 1, (6, 2)) * (size[1], size[0])
    for some in (points, points[:0]):
        answer = predictor.predict(some, image=image)
        assert answer.probability.dtype == np.float32
        np.testing.assert_allclose(answer.probability, by_the_network(predictor, image, some), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "opts",
    [["ROTATIONS", "4"], ["BLEND", "gaussian"], ["STRIDE", "32"], ["STRIDE", "7"], ["ROTATIONS", "4", "STRIDE", "15"]],
    ids=" ".join,
)
def test_the_probability_is_that_of_the_network_in_every_setting_of_the_windows(make: Make, opts: list[str]) -> None:
    predictor = make(*(f"TEST.WINDOW.{word}" if word.isupper() else word for word in opts))
    answer = predictor.predict(POINTS, image=IMAGE)
    np.testing.assert_allclose(answer.probability, by_the_network(predictor, IMAGE, POINTS), rtol=0, atol=1e-5)
    assert np.array_equal(predictor.predict(NONE).probability, make_again(predictor).predict(NONE).probability)


def test_points_make_a_difference(predictor: Predictor) -> None:
    """Without it most of what follows would prove nothing."""
    none, all_of_them = (predictor.predict(points).probability for points in (NONE, POINTS))
    assert np.abs(none - all_of_them).max() > 0.01


def test_mask_and_instances_are_those_of_the_probability(predictor: Predictor) -> None:
    answer = predictor.predict(POINTS)
    assert np.array_equal(answer.mask, answer.probability > 0.5)
    assert 0 < answer.mask.mean() < 1
    assert np.array_equal(answer.instances, semantic_to_instances(answer.mask, min_size=3))
    assert answer.instances is answer.instances  # computed once


def test_instances_are_split_at_centers_and_clicks(make: Make) -> None:
    """Two clicks on one component are two instances; the density is that of `centers=True`, at the slice's size."""
    predictor = make("INPUT.SCALE", "0.5", "TEST.INSTANCES", "centers")
    predictor.set_image(IMAGE)
    assert predictor.instances == "centers"
    whole = connected_components(predictor.predict(NONE).mask)
    rows, columns = np.nonzero(whole == np.bincount(whole.ravel())[1:].argmax() + 1)
    points = np.stack([columns, rows], -1)[[0, -1]].astype(np.float32) + np.float32(0.5)
    answer = predictor.predict(points)
    assert answer.centers is None  # nobody asked for them
    assert answer.centers_map.shape == IMAGE.shape
    labels, _ = split_at_centers(
        answer.probability, answer.centers_map, points, peak_threshold=predictor.center_threshold
    )
    assert np.array_equal(answer.instances, remove_small(labels, 3))
    at = labels[points[:, 1].astype(int), points[:, 0].astype(int)]
    assert at.min() == 0 or at[0] != at[1]


def test_results_on_the_way_have_components(make: Make) -> None:
    predictor = make("TEST.INSTANCES", "centers")
    answers = list(predictor.stream(POINTS, image=IMAGE, interval=0))
    assert len(answers) > 1
    assert [answer.centers_map is None for answer in answers] == [True] * (len(answers) - 1) + [False]
    assert np.array_equal(answers[0].instances, semantic_to_instances(answers[0].mask, min_size=3))


def test_an_unknown_kind_of_instances_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="instances is 'centres'; use 'components' or 'centers'"):
        Predictor((predictor.cfg, predictor._model), instances="centres")


def test_centers_are_the_peaks_of_the_density(make: Make) -> None:
    predictor = make("INPUT.SCALE", "0.5")
    predictor.set_image(IMAGE)
    model = predictor._model
    seen = torch.from_numpy(resize_image(IMAGE.astype(np.float32), 0.5))[None]
    points = torch.from_numpy(POINTS)[None] / 2
    _, density = sliding_window(seen, model.predict_windows_and_density, points=points, **model.window)
    predictor.center_threshold = density.median().item()
    expected, valid, scores = find_peaks(density[None], predictor.center_threshold)
    centers = predictor.predict(POINTS, centers=True).centers
    assert len(centers.points) > 3
    np.testing.assert_allclose(centers.points, 2 * expected[valid].numpy())
    np.testing.assert_allclose(centers.scores, scores[valid].numpy(), atol=1e-5)


def test_centers_come_only_when_asked_for(predictor: Predictor, calls: Calls) -> None:
    assert predictor.predict(POINTS).centers is None
    assert calls.heads == 0  # half of the forward pass
    predictor.predict(POINTS, centers=True)
    assert calls.heads == 9
    assert calls.take()[0] == 9  # the embeddings are shared
    predictor.predict(POINTS, centers=True)
    assert calls.heads == 9


def test_there_is_no_center_beside_unknown_pixels(predictor: Predictor) -> None:
    """There a pixel may be the highest only because its neighbors are not known."""
    predictor.center_threshold = -np.inf
    part = predictor.predict(NONE, region=(0, 0, 10, 10), centers=True).centers
    whole = predictor.predict(NONE, centers=True).centers
    everywhere = {tuple(point) for point in whole.points.tolist()}
    assert 0 < len(part.points) < len(whole.points)
    assert all(tuple(point) in everywhere for point in part.points.tolist())


def test_there_is_no_center_in_unknown_pixels(predictor: Predictor) -> None:
    answer = predictor.predict(NONE, region=(500, 500, 600, 600), centers=True)
    assert answer.centers.points.shape == (0, 2)
    assert np.isnan(answer.probability).all()
    assert not answer.mask.any()
    assert answer.changed is None


def test_bfloat16(make: Make, emulated_bfloat16: None) -> None:
    predictor = make("MODEL.PRECISION", "bfloat16")
    first = predictor.predict(POINTS, image=IMAGE).probability
    np.testing.assert_allclose(first, by_the_network(predictor, IMAGE, POINTS), rtol=0, atol=0.03)
    predictor.predict(NONE)
    assert np.array_equal(predictor.predict(POINTS).probability, first)


# ---- bad input, files


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[5, 5], [60, 5]], r"point 1 \(x=60, y=5\) lies outside the image of 60 x 70 px \(width x height\)"),
        ([[5, -0.1]], r"point 0 \(x=5, y=-0.1\) lies outside"),
        ([[5, np.nan]], r"point 0 \(x=5, y=nan\) lies outside"),
        ([[5, np.inf]], r"point 0 \(x=5, y=inf\) lies outside"),
        ([5, 5], r"points have shape \(2,\); expected \(number, 2\)"),
        ([[5, 5, 5]], r"points have shape \(1, 3\)"),
    ],
)
def test_bad_points_are_named(predictor: Predictor, points: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(points)


@pytest.mark.parametrize("region", [(0, 0, 10), (0, 0, 0, 10), (0, 10, 5, 5), (0, 0, np.nan, 5), "all", 5])
def test_a_bad_region_is_named(predictor: Predictor, region: Any) -> None:
    with pytest.raises(ValueError, match=r"region is .*expected"):
        predictor.predict(NONE, region=region)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5), np.uint8), r"shape \(0, 5\)"),
        (np.arange(75, dtype=np.uint8).reshape(5, 5, 3), "is in color"),
        (np.full((5, 5), np.nan), "the first is nan in row 0, column 0"),
    ],
)
def test_a_bad_image_is_refused_and_the_one_before_stays(predictor: Predictor, image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.set_image(image)
    with pytest.raises(ValueError, match=message):
        predictor.predict(NONE, image=image)
    assert np.array_equal(predictor.predict(NONE).probability, make_again(predictor).predict(NONE).probability)


def test_without_an_image_there_is_nothing_to_predict(make: Make) -> None:
    with pytest.raises(RuntimeError, match="no image yet: call set_image"):
        make().predict(NONE)


@pytest.fixture
def weights(make: Make, tmp_path: Path) -> Path:
    predictor, path = make(), tmp_path / "shared.safetensors"
    export_weights(path, predictor._model.state_dict(), predictor.cfg.dump())
    return path


def test_it_opens_weights(weights: Path, predictor: Predictor) -> None:
    opened = Predictor(weights, device="cpu", cache_bytes=50_000)
    assert opened.device == torch.device("cpu")
    answer = opened.predict(POINTS, image=IMAGE)
    assert np.array_equal(answer.probability, predictor.predict(POINTS).probability)
    assert 0 < opened.cache.nbytes <= 50_000
    gaussian = Predictor(weights, opts=["TEST.WINDOW.BLEND", "gaussian"]).predict(POINTS, image=IMAGE)
    assert not np.array_equal(gaussian.probability, answer.probability)


def test_it_opens_a_model_by_its_name(weights: Path, predictor: Predictor, models_home: Path) -> None:
    weights.rename(models_home / "em-tiny.safetensors")
    answer = Predictor("em-tiny").predict(POINTS, image=IMAGE)
    assert np.array_equal(answer.probability, predictor.predict(POINTS).probability)


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match="do not fit the network of this config"):
        Predictor(weights, opts=["MODEL.VIT.EMBED_DIM", "64"])


def test_a_device_that_is_not_there(weights: Path) -> None:
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no GPU"):
        Predictor(weights, device="cuda")


def test_a_network_in_training_mode_is_put_in_eval_mode(tiny_cfg: CfgNode) -> None:
    model = PromptDAS(tiny_cfg).train()
    Predictor.from_model(tiny_cfg, model)
    assert not model.training


@pytest.mark.gpu
def test_cuda_equals_cpu(make: Make) -> None:
    on_gpu, on_cpu = make("MODEL.DEVICE", "cuda"), make()
    on_gpu._model.cuda()
    for predictor in (on_gpu, on_cpu):
        predictor.set_image(IMAGE)
    np.testing.assert_allclose(on_gpu.predict(POINTS).probability, on_cpu.predict(POINTS).probability, atol=1e-3)
    first = on_gpu.predict(POINTS).probability
    on_gpu.predict(NONE)
    assert np.array_equal(on_gpu.predict(POINTS).probability, first)


# ---- one physical scale


PHYSICAL = ("INPUT.PIXEL_SIZE", "16")


def test_a_pixel_size_or_a_diameter_is_the_scale_that_follows_from_it(tiny: list[str]) -> None:
    """8 nm a pixel, or objects of 29 pixels, are half of what the network takes: 16 nm, or 14.5 pixels."""
    fixed = tiny_predictor(tiny, "INPUT.SCALE", "0.5")
    expected = fixed.predict(POINTS, image=IMAGE).probability
    network = (tiny_predictor(tiny, *PHYSICAL).cfg, fixed._model)
    for size in ({"pixel_size": 8}, {"diameter": 29}):
        predictor = Predictor(network, **size)
        assert predictor.scale == 0.5
        np.testing.assert_array_equal(predictor.predict(POINTS, image=IMAGE).probability, expected)


def test_weights_carry_the_pixel_size(tiny: list[str], tmp_path: Path) -> None:
    origin, path = tiny_predictor(tiny, *PHYSICAL), tmp_path / "tiny.safetensors"
    export_weights(path, origin._model.state_dict(), origin.cfg.dump())
    assert Predictor(path, pixel_size=4).scale == 0.25


def test_images_of_unknown_pixel_size_are_refused(tiny: list[str]) -> None:
    predictor = tiny_predictor(tiny, *PHYSICAL)
    for ask in (predictor.set_image, lambda image: predictor.predict(NONE, image=image)):
        with pytest.raises(ValueError, match=r"pixels of 16 nm.*pixel_size=8.*diameter=36"):
            ask(IMAGE)


def test_an_image_may_come_with_its_own_scale(tiny: list[str]) -> None:
    """And the same image at another scale is another question."""
    predictor = tiny_predictor(tiny, *PHYSICAL)
    for scale in ("0.5", "0.25"):
        expected = tiny_predictor(tiny, "INPUT.SCALE", scale).predict(POINTS, image=IMAGE).probability
        answer = predictor.predict(POINTS, image=IMAGE, scale=float(scale))
        np.testing.assert_array_equal(answer.probability, expected)


def test_sizes_that_can_hardly_be_meant_are_refused(tiny: list[str]) -> None:
    network = (tiny_predictor(tiny, *PHYSICAL).cfg, tiny_predictor(tiny)._model)
    with pytest.raises(ValueError, match=r"in nanometers; .* looks like µm: that is 8"):
        Predictor(network, pixel_size=0.008)
    with pytest.raises(ValueError, match=r"a diameter of 1 pixels would make 14.5"):
        Predictor(network, diameter=1)
