"""Synthetic micrographs: reproducible, each of another style, and the truth about them fits the picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from prompt_das.ops.connected_components import connected_components
from prompt_das.volumes.synthetic_tissue import microscope
from prompt_das.volumes.synthetic_tissue.canvas import smooth_noise
from prompt_das.volumes.synthetic_tissue.micrograph import Micrograph, make_micrograph
from prompt_das.volumes.synthetic_tissue.microscope import ARTEFACTS
from prompt_das.volumes.synthetic_tissue.style import OTHERS, random_style

import numpy as np
import pytest

SIZE = 96


@pytest.fixture(scope="module")
def micrographs() -> list[Micrograph]:
    return [make_micrograph(np.random.default_rng([1, n]), SIZE) for n in range(100)]


def test_types_and_shapes(micrographs: list[Micrograph]) -> None:
    for one in micrographs:
        assert (one.image.shape, one.image.dtype) == ((SIZE, SIZE), np.uint8)
        assert (one.mitochondria.shape, one.objects.shape) == ((SIZE, SIZE), (SIZE, SIZE))
        assert one.objects.max() <= len(one.classes)


def test_the_same_random_numbers_draw_the_same() -> None:
    first, again, other = (make_micrograph(np.random.default_rng(seed), SIZE) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mitochondria, again.mitochondria)
    np.testing.assert_array_equal(first.objects, again.objects)
    assert (first.image != other.image).mean() > 0.5


def test_a_pixel_holds_one_thing(micrographs: list[Micrograph]) -> None:
    for one in micrographs:
        assert not ((one.mitochondria > 0) & (one.objects > 0)).any()


def test_nearly_all_mitochondria_are_in_one_piece(micrographs: list[Micrograph]) -> None:
    ids = [one.mitochondria for one in micrographs]
    pieces = [connected_components(one == i).max() for one in ids for i in np.unique(one)[1:]]
    assert len(pieces) > 100
    assert np.mean(np.array(pieces) == 1) > 0.95


def test_some_mitochondria_touch(micrographs: list[Micrograph]) -> None:
    def touching(ids: np.ndarray) -> bool:
        pairs = ((ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1]))
        return any(((a != b) & (a > 0) & (b > 0)).any() for a, b in pairs)

    assert any(touching(one.mitochondria) for one in micrographs)


def test_there_are_all_kinds_of_organelles(micrographs: list[Micrograph]) -> None:
    """Rare ones, too, in a style that has many of each."""
    styles = [replace(random_style(np.random.default_rng(n)), others=dict.fromkeys(OTHERS, 1.0)) for n in range(10)]
    crowded = [make_micrograph(np.random.default_rng(n), SIZE, style=style) for n, style in enumerate(styles)]
    counts = Counter(name for one in (*micrographs, *crowded) for name in one.classes)
    drawn_as = {"reticulum stack": "reticulum", "golgi": "reticulum"}
    for name in OTHERS:
        assert counts[drawn_as.get(name, name)], name
    assert counts["nucleus"]
    assert counts["myelin"]


def test_mitochondria_differ_from_what_is_around_them(micrographs: list[Micrograph]) -> None:
    """Within most pictures their mean gray value differs from the rest, and in which direction varies."""
    difference = [
        one.image[one.mitochondria > 0].mean() - one.image[one.mitochondria == 0].mean()
        for one in micrographs
        if (one.mitochondria > 0).sum() > 50
    ]
    assert np.median(difference) < -5
    assert np.std(difference) > 5


def test_styles_differ(micrographs: list[Micrograph]) -> None:
    means, deviations = ([getattr(one.image, what)() for one in micrographs] for what in ("mean", "std"))
    assert np.std(means) > 10
    assert np.std(deviations) > 3
    assert {one.style.tissue for one in micrographs} == {"neuropil", "soma", "packed", "bundle"}


def test_smaller_pixels_show_larger_mitochondria() -> None:
    def typical_area(pixel_size: float) -> float:
        drawn = [make_micrograph(np.random.default_rng(n), SIZE, pixel_size).mitochondria for n in range(20)]
        return float(np.median(np.concatenate([np.bincount(ids.ravel())[1:] for ids in drawn])))

    assert typical_area(10) > 2 * typical_area(20)


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda f: f.__name__.strip("_"))
def test_an_artefact_changes_the_picture_and_keeps_its_shape(artefact) -> None:
    rng = np.random.default_rng(3)
    picture = np.clip(0.5 + 0.1 * smooth_noise(rng, (64, 80), 4), 0, 1)
    changed = artefact(rng, picture.copy())
    assert changed.shape == picture.shape
    assert np.isfinite(changed).all()
    assert np.abs(changed - picture).max() > 0.02


def test_no_style_is_out_of_range() -> None:
    for seed in range(200):
        style = random_style(np.random.default_rng(seed))
        assert 0 < style.radius[0] < style.radius[1] < 500
        assert 0 <= style.matrix <= 1
        assert set(style.others) == set(OTHERS)


@pytest.mark.parametrize("size", [0.5, 3.0, 40.0, 500.0])
def test_smooth_noise_has_mean_zero_and_deviation_one(size: float) -> None:
    noise = smooth_noise(np.random.default_rng(0), (50, 70), size)
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(1, abs=1e-2)


def test_what_is_lost_is_not_labeled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microscope, "ARTEFACT_PROBABILITY", 1.0)
    lost = np.zeros((SIZE, SIZE), bool)
    lost[30:50] = True
    monkeypatch.setattr(microscope, "_missing_part", lambda rng, shape: lost)
    drawn = [make_micrograph(np.random.default_rng([2, n]), SIZE) for n in range(10)]
    for ids in (one.mitochondria for one in drawn), (one.objects for one in drawn):
        labeled = np.logical_or.reduce([one > 0 for one in ids])
        assert not labeled[lost].any()
        assert labeled[:30].any()


def test_compact_objects_are_those_with_a_border_of_their_own(micrographs: list[Micrograph]) -> None:
    kept, left_out = Counter(), Counter()
    for one in micrographs:
        compact = one.compact_objects()
        for i in np.unique(one.objects)[1:]:
            same = compact[one.objects == i]
            assert (same == i).all() or not same.any()
            (kept if same.any() else left_out)[one.classes[i - 1]] += 1
        assert not compact[one.objects == 0].any()
    assert {"lysosome", "vacuole", "nucleus"} <= set(kept)
    assert {"vesicles", "reticulum", "synapse", "myelin"} <= set(left_out)
    assert not set(kept) & set(left_out)
