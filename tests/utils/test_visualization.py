"""Pictures: what is drawn lies where it should, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

from prompt_das.utils.visualization import (
    ESTIMATE,
    NEGATIVE_PROMPT,
    PREDICTION,
    PROMPT,
    TRUTH,
    draw_density,
    draw_overlay,
    save_image,
    tile,
    to_rgb,
)

import cv2
import numpy as np
import pytest

GRAY = np.full((40, 60), 100.0, np.float32)


def is_color(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (picture == color).all(axis=-1)


def test_values_are_clipped_and_rounded() -> None:
    picture = to_rgb(np.array([[-5, 0.6, 254.4, 300]]))
    assert picture.dtype == np.uint8
    assert picture[0].tolist() == [[0] * 3, [1] * 3, [254] * 3, [255] * 3]


def test_a_mask_is_outlined_inside_its_border() -> None:
    mask = np.zeros(GRAY.shape, bool)
    mask[10:20, 30:45] = True
    ring = mask.copy()
    ring[11:19, 31:44] = False
    picture = draw_overlay(GRAY, mask, color=TRUTH)
    np.testing.assert_array_equal(is_color(picture, TRUTH), ring)
    assert (picture[~ring] == 100).all()


def test_the_border_of_the_image_is_no_outline() -> None:
    assert (draw_overlay(GRAY, np.ones(GRAY.shape, bool)) == 100).all()


def test_touching_instances_are_told_apart() -> None:
    labels = np.full(GRAY.shape, 70_000)
    labels[:, 30:] = 70_001
    columns = is_color(draw_overlay(GRAY, labels), PREDICTION).all(axis=0)
    assert np.flatnonzero(columns).tolist() == [29, 30]
    assert (draw_overlay(GRAY, labels > 0) == 100).all()


@pytest.mark.parametrize("marker", ["disk", "cross"])
@pytest.mark.parametrize("scale", [1.0, 3.0, 0.5])
def test_points_are_centered_where_they_are(marker: str, scale: float) -> None:
    """(0.5, 0.5) is the center of the first pixel, at every scale."""
    points = np.array([[20.5, 9.5], [42.5, 30.5]])
    picture = draw_overlay(GRAY, points=points, marker=marker, point_color=ESTIMATE, scale=scale)
    assert picture.shape == (40 * scale, 60 * scale, 3)
    count, _, _, centers = cv2.connectedComponentsWithStats(
        is_color(picture, ESTIMATE).astype(np.uint8), connectivity=8
    )
    assert count == 3
    np.testing.assert_allclose(sorted(map(tuple, centers[1:] + 0.5)), points * scale, atol=0.5)


def test_points_near_and_beyond_the_border_are_legal() -> None:
    picture = draw_overlay(GRAY, points=np.array([[0.0, 0.0], [60.0, 40.0], [-50.0, 1e4]]))
    assert is_color(picture, PROMPT)[[0, -1], [0, -1]].all()
    assert (draw_overlay(GRAY, points=np.zeros((0, 2))) == 100).all()


def test_a_small_scale_keeps_outlines_in_place() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[100:200, 100:200] = 1
    rows, cols = np.nonzero(is_color(draw_overlay(np.zeros((400, 400)), labels, scale=0.25), PREDICTION))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (25, 49, 25, 49)


def test_drawing_leaves_the_arguments_alone_and_can_be_chained() -> None:
    image = GRAY.copy()
    picture = draw_overlay(image, points=np.array([[10.5, 10.5]]))
    before = picture.copy()
    both = draw_overlay(picture, points=np.array([[40.5, 10.5]]), point_color=ESTIMATE)
    assert is_color(both, PROMPT).any()
    assert is_color(both, ESTIMATE).any()
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(image, GRAY)


def test_density_is_opaque_only_where_it_is_high() -> None:
    density = np.zeros(GRAY.shape)
    density[5, 7] = 1
    picture = draw_density(density, GRAY)
    np.testing.assert_array_equal((picture != 100).any(axis=-1), density > 0)
    colors = draw_density(density)
    assert colors[5, 7].sum() > 600 > 30 > colors[0, 0].sum()


def test_tiles_have_room_for_every_image_title_and_legend() -> None:
    images = [np.full((20, 30), 0), np.full((10, 50), 0), np.full((20, 30, 3), 0)]
    plain = tile(images, columns=2)
    assert (plain == 0).all(axis=-1).sum() == 20 * 30 + 10 * 50 + 20 * 30
    titled = tile(images, ["a", "b", "a rather long title for an image of 30 pixels"], columns=2)
    assert titled.shape[0] > plain.shape[0]
    legend = tile(images, columns=2, legend={"truth": TRUTH})
    assert is_color(legend, TRUTH).sum() > 50
    assert tile(images).shape[0] < plain.shape[0]  # one row


def test_a_long_title_stays_above_its_image() -> None:
    both = tile([np.zeros((20, 80))] * 2, ["a title that is much longer than eighty pixels", ""])
    strip = both[:20, 90:]
    assert (strip == 255).all()


def test_saving_keeps_the_colors(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 255
    save_image(tmp_path / "new" / "red.png", picture)
    assert cv2.imread(str(tmp_path / "new" / "red.png"))[0, 0].tolist() == [0, 0, 255]  # OpenCV reads BGR


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_overlay(GRAY, np.zeros((3, 3))), r"\(3, 3\).*\(40, 60\)"),
        (lambda: draw_overlay(GRAY, marker="star"), "star"),
        (lambda: draw_overlay(np.zeros((2, 3, 4))), r"\(2, 3, 4\)"),
        (lambda: tile([]), "at least one"),
        (lambda: tile([GRAY], ["a", "b"]), "2 titles for 1 images"),
    ],
)
def test_errors_name_the_value(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_negative_clicks_are_crosses_of_their_own_color() -> None:
    clicks = np.array([[20.5, 20.5, 1], [60.5, 60.5, 0]])
    picture = draw_overlay(np.full((80, 80), 128.0), points=clicks)
    assert tuple(picture[20, 20]) == PROMPT
    assert tuple(picture[60, 60]) == NEGATIVE_PROMPT
    only_positive = draw_overlay(np.full((80, 80), 128.0), points=clicks[:1, :2])
    assert np.array_equal(picture[:40, :40], only_positive[:40, :40])
