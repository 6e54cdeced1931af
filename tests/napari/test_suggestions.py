"""Predicted centers are suggested where no prompt and no earlier judgment is near."""

from __future__ import annotations

from prompt_das.inference.interactive.segmentation import Centers
from prompt_das.napari.suggestions import near, new_centers

import numpy as np

NONE = np.zeros((0, 2), np.float32)
INSTANCES = np.zeros((20, 30), int)
INSTANCES[0:10, 0:10] = 1
INSTANCES[0:10, 20:30] = 2
CENTERS = Centers(np.array([[5.0, 5], [25, 5], [15, 15]], np.float32), np.array([0.9, 0.8, 0.7], np.float32))


def kept(prompts: np.ndarray = NONE, rejected: np.ndarray = NONE, centers: Centers = CENTERS) -> list[float]:
    new = new_centers(centers, INSTANCES, prompts, rejected, radius=3)
    assert len(new.points) == len(new.scores)
    return [round(float(score), 1) for score in new.scores]


def test_without_prompts_all_are_new() -> None:
    assert kept() == [0.9, 0.8, 0.7]


def test_an_instance_with_a_prompt_needs_no_other() -> None:
    assert kept(prompts=np.array([[9.5, 9.5]])) == [0.8, 0.7]


def test_background_is_no_instance() -> None:
    assert kept(prompts=np.array([[15.0, 3]])) == [0.9, 0.8, 0.7]


def test_beside_a_prompt_or_a_rejected_center_nothing_is_suggested() -> None:
    assert kept(prompts=np.array([[15.0, 18]])) == [0.9, 0.8]
    assert kept(rejected=np.array([[15.0, 12], [25, 5]])) == [0.9]
    assert kept(rejected=np.array([[15.0, 11]])) == [0.9, 0.8, 0.7]


def test_no_centers() -> None:
    assert kept(prompts=np.array([[5.0, 5]]), centers=Centers(NONE, np.zeros(0, np.float32))) == []
    assert near(np.array([[1.0, 1]]), NONE, 5).tolist() == [False]
