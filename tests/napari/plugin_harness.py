"""A viewer without a window, with the plugin at work in it, and what its tests compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.napari.messages import Message
from prompt_das.napari.session import Session
from prompt_das.volumes.point_files import write_points

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install prompt-das[napari]")

from prompt_das.napari.controller import Controller
from prompt_das.napari.notifications import Notifications

import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

WAIT = 60  # seconds at most; an answer of the tiny network takes milliseconds
CLICKED = [[0, 20, 30], [2, 40, 10]]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def same_instances(one: np.ndarray, other: np.ndarray) -> bool:
    """Whatever their ids: the plugin keeps ids, and so colors, from answer to answer."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] and np.array_equal(one > 0, other > 0)


class PluginHarness:
    """A viewer without a window, with the plugin at work in it.

    Attributes:
        notified: what the user was notified of, by kind.
    """

    def __init__(self) -> None:
        self.viewer = ViewerModel()
        self.messages: Queue[Message] = Queue()
        self.session = Session(self.messages.put)
        self.notified: dict[str, list[str]] = {"error": [], "warning": [], "info": []}
        self.controller = Controller(
            self.viewer,
            self.session,
            Notifications(**{kind: texts.append for kind, texts in self.notified.items()}),
        )

    def work(self) -> None:
        """Until nothing is under way."""
        while self.controller.progress is not None or self.controller.tasks.progress is not None:
            self.controller.receive(self.messages.get(timeout=WAIT))

    def segment(self, array: object, **kwargs: object) -> Image:
        """Add an image, choose it, and wait for the answer to its first slice."""
        image = self.viewer.add_image(array, **kwargs)
        self.viewer.dims.set_current_step(0, 0)  # napari begins in the middle
        self.controller.choose(image)
        self.work()
        return image

    def click(self, position: Sequence[float], *modifiers: str) -> None:
        """What napari does for a click of the mouse at a position of the world."""
        for kind, call in (("mouse_press", mouse_press_callbacks), ("mouse_release", mouse_release_callbacks)):
            event = SimpleNamespace(
                type=kind, pos=np.zeros(2), position=tuple(position), modifiers=modifiers, handled=False
            )
            for receiver in (self.viewer, self.viewer.layers.selection.active):
                call(receiver, ReadOnlyWrapper(event, exceptions=("handled",)))

    @property
    def prompts(self) -> Points:
        assert self.controller.image_sessions.current is not None
        return self.controller.image_sessions.current.prompts

    @property
    def negative_prompts(self) -> Points:
        assert self.controller.image_sessions.current is not None
        return self.controller.image_sessions.current.negative_prompts

    @property
    def instances(self) -> Labels:
        assert self.controller.image_sessions.current is not None
        return self.controller.image_sessions.current.instances

    @property
    def places(self) -> Points:
        assert self.controller.image_sessions.current is not None
        assert self.controller.image_sessions.current.places is not None
        return self.controller.image_sessions.current.places


def expected_volume(weights: Path, volume: Path, folder: Path, second_label: int = 1) -> np.ndarray:
    """By the Python API, with the prompts of `CLICKED`."""
    clicks = {0: np.array([[30.5, 20.5, 1]]), 2: np.array([[10.5, 40.5, second_label]])}
    write_points(folder / "points.json", clicks)
    source = VolumeSource(volume, points=folder / "points.json")
    predict_volume(weights, source, folder / "expected.zarr", progress=False)
    return np.asarray(zarr.open(folder / "expected.zarr", mode="r")["labels/instances/0"])
