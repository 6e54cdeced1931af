"""How large things are: stated, measured on a line, or read; and what is used is said."""

from __future__ import annotations

from pathlib import Path

from prompt_das.inference.interactive.predictor import Predictor

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari.fit_threshold import middle
from prompt_das.napari.image_scale import describe_scale, diameter_of

from plugin_harness import PluginHarness, same_instances


@pytest.fixture
def physical(harness: PluginHarness, weights_of_physical_scale: Path) -> PluginHarness:
    """With weights open that take pixels of 16 nm, and objects of 14.5 of them."""
    harness.controller.open_weights(weights_of_physical_scale)
    harness.work()
    return harness


def described(harness: PluginHarness) -> str:
    return describe_scale(harness.session.predictor, harness.controller.image_sessions.current)


def test_a_line_across_an_object_is_its_diameter(
    physical: PluginHarness, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    """3 pixels down and 4 to the right, ten times: 50. Several lines count by their median."""
    physical.segment(image, scale=(30, 8, 8))  # a scale without units is none
    physical.controller.lines.draw()
    current = physical.controller.image_sessions.current
    assert current is not None
    assert current.lines is not None
    assert physical.viewer.layers.selection.active is current.lines
    current.lines.add_lines(np.array([[0, 10, 10], [0, 40, 50]]))
    physical.work()
    assert current.diameter == 50
    assert physical.viewer.layers.selection.active is physical.prompts
    answer = Predictor(weights_of_physical_scale, diameter=50).predict([], image=image[0])
    assert same_instances(physical.instances.data[0], answer.instances)
    assert described(physical) == "Objects of 50 px, as stated: × 0.29"

    current.lines.add_lines(np.array([[1, 10, 10], [1, 10, 30]]))
    current.lines.add_lines(np.array([[1, 20, 10], [1, 20, 31]]))
    assert current.diameter == 21
    current.lines.selected_data = {0}
    current.lines.remove_selected()
    assert current.diameter == 20.5
    physical.work()


def test_a_click_without_a_drag_measures_nothing(physical: PluginHarness, image: np.ndarray) -> None:
    physical.segment(image)
    physical.controller.lines.draw()
    current = physical.controller.image_sessions.current
    assert current is not None
    assert current.lines is not None
    current.lines.add_lines(np.array([[0, 10, 10], [0, 10.5, 10]]))
    assert current.diameter == 0


def test_lines_that_were_deleted_can_be_drawn_anew(physical: PluginHarness, image: np.ndarray) -> None:
    physical.segment(image)
    current = physical.controller.image_sessions.current
    assert current is not None
    for _ in range(2):
        physical.controller.lines.draw()
        assert current.lines is not None
        current.lines.add_lines(np.array([[0, 10, 10], [0, 10, 40]]))
        assert current.diameter == 30
        physical.viewer.layers.remove(current.lines)
        physical.controller.options.set_diameter(12)
    physical.work()


def test_a_pixel_size_takes_the_place_of_the_diameter(
    physical: PluginHarness, weights_of_physical_scale: Path, image: np.ndarray
) -> None:
    physical.segment(image, name="em")
    assert physical.controller.problem.startswith("How large are the pixels of 'em'?")
    assert described(physical) == ""
    physical.controller.options.set_diameter(40)
    physical.controller.options.set_pixel_size(8)
    physical.work()
    current, predictor = physical.controller.image_sessions.current, physical.session.predictor
    assert current is not None
    assert (current.diameter, current.pixel_size) == (0, 8)
    answer = Predictor(weights_of_physical_scale, pixel_size=8).predict([], image=image[0])
    assert same_instances(physical.instances.data[0], answer.instances)
    assert described(physical) == "Pixels of 8 nm, as stated: × 0.50"
    assert diameter_of(predictor, current) == 29  # 14.5 of the network's: what whole volumes and adaptation are told
    physical.controller.options.set_pixel_size(0.008)
    assert "looks like µm" in physical.controller.problem


def test_what_decides_the_scale_is_said(physical: PluginHarness, image: np.ndarray) -> None:
    physical.segment(image, scale=(30, 4, 4), units=("nm",) * 3)
    assert described(physical) == "Pixels of 4 nm, from the layer: × 0.25"


def test_a_network_of_no_physical_scale_says_nothing(ready: PluginHarness, image: np.ndarray) -> None:
    ready.segment(image)
    assert described(ready) == ""


def test_the_threshold_fits_the_diameter(
    physical: PluginHarness, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slice in view says it, as it is segmented; without a diameter the plugin asks for one."""
    seen = []

    def logit_of_diameter(maps: list[np.ndarray], diameter: float) -> tuple[float | None, int]:
        seen.append((maps[0].shape, diameter))
        return (1.0, 9) if len(seen) > 1 else (None, 2)

    monkeypatch.setattr("prompt_das.napari.fit_threshold.logit_of_diameter", logit_of_diameter)
    physical.segment(image)
    current = physical.controller.image_sessions.current
    assert current is not None
    physical.controller.fit_threshold()
    assert "From a line" in physical.notified["warning"][-1]
    physical.controller.options.set_diameter(29)
    physical.controller.fit_threshold()
    assert "not segmented yet" in physical.notified["warning"][-1]
    physical.work()
    physical.controller.fit_threshold()
    assert "sure of 2 whole objects" in physical.notified["warning"][-1]
    assert current.threshold == 0.5
    physical.controller.fit_threshold()
    assert current.threshold == 0.73  # of a logit of 1
    assert seen == [(image.shape[1:], 29)] * 2
    physical.work()


def test_of_a_large_slice_the_middle_says_the_threshold() -> None:
    rows = np.arange(3000)[:, None] * np.ones(2100)
    part = middle(rows)
    assert part.shape == (2048, 2048)
    assert part[0, 0] == 476
