"""Instances are kept, deleted, merged and split by clicks; that holds, becomes points, and can be undone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari.edits import Edits, leave_out_held
from prompt_das.volumes.point_files import read_clicks

from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks
from plugin_harness import PluginHarness, same_instances

LEFT, RIGHT = (slice(10, 21), slice(10, 21)), (slice(10, 21), slice(30, 41))  # squares around (15, 15) and (15, 35)


@pytest.fixture
def drawn(ready_for_clicks: PluginHarness, image: np.ndarray) -> PluginHarness:
    """Slice 0 has two squares, 3 and 8, as if the network had found them."""
    ready_for_clicks.segment(image, scale=(30, 8, 8))
    draw(ready_for_clicks, (LEFT, 3), (RIGHT, 8))
    return ready_for_clicks


def draw(harness: PluginHarness, *squares: tuple[tuple[slice, slice], int]) -> None:
    harness.instances.data[0] = 0
    for place, label in squares:
        harness.instances.data[(0, *place)] = label
    current = harness.controller.image_sessions.current
    assert current is not None
    current.edits.drawn = (0, harness.instances.data[0].copy())


def use(harness: PluginHarness, tool: str, *places: tuple[int, int]) -> None:
    """Choose a tool, click on (row, column) in slice 0, and wait for what the network makes of it."""
    harness.controller.proofreading.choose(tool)
    for row, column in places:
        harness.click((0, 8 * row, 8 * column))
    harness.work()


def test_what_is_deleted_stays_away_and_leaves_a_negative_point(drawn: PluginHarness) -> None:
    drawn.prompts.add([[0, 12, 12], [0, 15, 35]])
    drawn.work()
    draw(drawn, (LEFT, 3), (RIGHT, 8))
    use(drawn, "delete", (11, 20))
    assert not drawn.instances.data[(0, *LEFT)].any()
    np.testing.assert_array_equal(drawn.negative_prompts.data, [[0, 15, 15]])
    np.testing.assert_array_equal(drawn.prompts.data, [[0, 15, 35]])


def test_what_is_kept_holds_and_has_a_point_at_its_center(drawn: PluginHarness) -> None:
    use(drawn, "keep", (11, 11))
    assert (drawn.instances.data[(0, *LEFT)] == 3).all()
    np.testing.assert_array_equal(drawn.prompts.data, [[0, 15, 15]])
    assert len(drawn.negative_prompts.data) == 0


def test_parts_are_merged_and_their_points_become_one(drawn: PluginHarness) -> None:
    drawn.prompts.add([[0, 12, 12], [0, 15, 35], [1, 15, 35]])
    drawn.negative_prompts.add([0, 18, 18])
    drawn.work()
    draw(drawn, (LEFT, 3), (RIGHT, 8))
    use(drawn, "merge", (15, 15), (15, 35))
    assert (drawn.instances.data[(0, *LEFT)] == 3).all()
    assert (drawn.instances.data[(0, *RIGHT)] == 3).all()
    others, new = drawn.prompts.data[:-1], drawn.prompts.data[-1]
    np.testing.assert_array_equal(others, [[1, 15, 35]])
    assert drawn.instances.data[tuple(new.astype(int))] == 3
    assert len(drawn.negative_prompts.data) == 0


def test_an_instance_is_split_between_two_clicks(drawn: PluginHarness) -> None:
    draw(drawn, (LEFT, 5), (RIGHT, 5), ((slice(15, 16), slice(21, 30)), 5))  # joined by a line of one pixel
    use(drawn, "split", (11, 11), (15, 38))
    parts = drawn.instances.data[0]
    (left,), (right,) = np.unique(parts[LEFT]), np.unique(parts[RIGHT])
    assert left == 5
    assert right not in (0, 5)
    assert set(np.unique(parts[15, 21:30])) <= {left, right}
    assert sorted(parts[int(y), int(x)] for _, y, x in drawn.prompts.data) == sorted([left, right])


def test_undo_brings_back_pixels_and_points(drawn: PluginHarness) -> None:
    drawn.prompts.add([[0, 12, 12], [0, 15, 35]])
    drawn.work()
    draw(drawn, (LEFT, 3), (RIGHT, 8))
    use(drawn, "delete", (15, 15))
    use(drawn, "keep", (15, 35))
    drawn.controller.proofreading.undo()
    drawn.controller.proofreading.undo()
    assert (drawn.instances.data[(0, *LEFT)] == 3).all()
    drawn.work()
    assert sorted(drawn.prompts.data.tolist()) == [[0, 12, 12], [0, 15, 35]]
    assert len(drawn.negative_prompts.data) == 0
    drawn.controller.proofreading.undo()  # there is nothing more
    assert drawn.notified["error"] == []


def test_after_undo_the_network_has_its_say_again(
    drawn: PluginHarness, clicks_by_hand: Predictor, image: np.ndarray
) -> None:
    use(drawn, "delete", (15, 15))
    drawn.controller.proofreading.undo()
    drawn.work()
    assert same_instances(drawn.instances.data[0], clicks_by_hand.predict([], image=image[0]).instances)


def test_edits_hold_while_one_goes_on(drawn: PluginHarness, weights: Path, image: np.ndarray) -> None:
    """New clicks, other weights and other thresholds change what was not edited, and nothing else."""
    use(drawn, "keep", (15, 15))
    drawn.controller.proofreading.choose(None)
    drawn.prompts.add([0, 50, 50])
    drawn.work()
    before = drawn.instances.data[0].copy()
    assert (before[LEFT] == 3).all()
    drawn.controller.open_weights(weights)
    drawn.work()
    drawn.controller.options.set_threshold(0.3)
    drawn.work()
    assert (drawn.instances.data[(0, *LEFT)] == 3).all()
    outside = np.ones(image.shape[1:], bool)
    outside[LEFT] = False
    assert not (drawn.instances.data[0][outside] == 3).any()
    assert (drawn.instances.data[0] != before).any()


def test_strokes_with_the_brush_hold_and_are_undone_in_order(drawn: PluginHarness) -> None:
    instances = drawn.instances
    instances.brush_size = 4
    instances.paint((0, 40, 40), 9)
    painted = instances.data[0] == 9
    assert painted.any()
    use(drawn, "keep", (15, 15))
    assert (instances.data[0][painted] == 9).all()
    (undo,) = [action for keys, action in instances.keymap.items() if "Z" in str(keys)]
    undo(instances)
    drawn.work()
    assert len(drawn.prompts.data) == 0
    assert (instances.data[0][painted] == 9).all()
    undo(instances)
    assert not (instances.data[0] == 9).any()


def test_the_bucket_and_the_eraser_hold(drawn: PluginHarness) -> None:
    """napari tells of the one before it draws, of the other when the mouse is let go."""
    instances = drawn.instances
    instances.fill((0, 15, 15), 12)
    with instances.block_history():
        for column in range(30, 41):
            for row in range(10, 21):
                instances.paint((0, row, column), 0)
    drawn.prompts.add([0, 50, 50])
    drawn.work()
    assert (instances.data[(0, *LEFT)] == 12).all()
    assert not instances.data[(0, *RIGHT)].any()
    assert len(drawn.controller.image_sessions.current.edits.done) == 2


def test_clicks_that_make_no_sense_say_so_and_change_nothing(drawn: PluginHarness) -> None:
    before = drawn.instances.data[0].copy()
    for tool, places, says in (
        ("delete", [(60, 50)], "no instance here to delete"),
        ("keep", [(900, 50)], "no instance here to keep"),
        ("merge", [(15, 15), (16, 16)], "merged already"),
        ("split", [(15, 15), (15, 35)], "two places of the same"),
        ("split", [(15, 15), (15, 15)], "two places of the same"),
    ):
        use(drawn, tool, *places)
        assert says in drawn.notified["warning"][-1]
    np.testing.assert_array_equal(drawn.instances.data[0], before)
    assert len(drawn.prompts.data) == len(drawn.negative_prompts.data) == 0


def test_a_drag_moves_the_view_and_edits_nothing(drawn: PluginHarness) -> None:
    drawn.controller.proofreading.choose("delete")
    for kind, call in (
        ("mouse_press", mouse_press_callbacks),
        ("mouse_move", mouse_move_callbacks),
        ("mouse_release", mouse_release_callbacks),
    ):
        event = SimpleNamespace(
            **{"type": kind, "position": (0, 120, 120), "pos": np.zeros(2), "modifiers": ()},
            **{"handled": False, "is_dragging": True},
        )
        call(drawn.instances, ReadOnlyWrapper(event, exceptions=("handled",)))
    assert (drawn.instances.data[(0, *LEFT)] == 3).all()


def test_a_tool_says_what_to_click_and_ends_with_another_layer(drawn: PluginHarness) -> None:
    proofreading = drawn.controller.proofreading
    assert proofreading.hint == ""
    use(drawn, "merge", (15, 15))
    assert proofreading.hint.startswith("Merge: now")
    drawn.viewer.layers.selection.active = drawn.prompts
    assert proofreading.tool is None
    assert proofreading.hint == ""
    proofreading.choose("split")
    proofreading.choose(None)
    assert drawn.viewer.layers.selection.active is drawn.prompts


def test_edits_are_saved_with_the_points(drawn: PluginHarness, tmp_path: Path) -> None:
    """So they are what the next adaptation learns from."""
    use(drawn, "delete", (15, 15))
    draw(drawn, (RIGHT, 8))
    use(drawn, "keep", (15, 35))
    drawn.controller.files.save_points(tmp_path / "points.json")
    clicks = read_clicks(tmp_path / "points.json")
    np.testing.assert_array_equal(clicks[0], [[35.5, 15.5, 1], [15.5, 15.5, 0]])


def test_a_flat_image_is_proofread(ready_for_clicks: PluginHarness, image: np.ndarray) -> None:
    ready_for_clicks.segment(image[0])
    ready_for_clicks.instances.data[:] = 0
    ready_for_clicks.instances.data[LEFT] = 3
    ready_for_clicks.controller.proofreading.choose("delete")
    ready_for_clicks.click((15, 15))
    ready_for_clicks.work()
    assert not ready_for_clicks.instances.data[LEFT].any()
    np.testing.assert_array_equal(ready_for_clicks.negative_prompts.data, [[15, 15]])


def test_instances_that_lie_by_half_where_edits_hold_are_left_out() -> None:
    found = np.array([[1, 1, 0, 2, 2, 2]])
    held = np.array([[True, False, False, True, False, False]])
    np.testing.assert_array_equal(leave_out_held(found, held), [[0, 0, 0, 0, 2, 2]])


def test_undone_edits_hold_no_longer_than_those_before() -> None:
    edits, box = Edits(), (slice(0, 1), slice(0, 3))
    edits.hold(0, (1, 4), box, np.array([[True, True, False]]), np.zeros((1, 3), int))
    edits.hold(0, (1, 4), box, np.array([[False, True, True]]), np.zeros((1, 3), int))
    shown, found = np.array([[1, 2, 3, 4]]), np.array([[5, 6, 7, 8]])
    np.testing.assert_array_equal(edits.kept(0, shown, found), [[1, 2, 3, 8]])
    edits.undo()
    np.testing.assert_array_equal(edits.kept(0, shown, found), [[1, 2, 7, 8]])
    np.testing.assert_array_equal(edits.kept(1, shown, found), found)
