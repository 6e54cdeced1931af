"""The model that comes with the package: the file that it should be, and what it does on a volume it has not seen."""

from __future__ import annotations

from argparse import Namespace

from prompt_das.checkpoint.model_zoo import find_weights, list_models, read_pixel_size
from prompt_das.engine.setup import config_of_args
from prompt_das.evaluation.metrics import evaluate_slice
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.ops.points import instance_centers
from prompt_das.volumes.synthetic import make_synthetic_volume

import numpy as np
import pytest

PIXEL_SIZE = 12.0  # nm, of the volume: mitochondria are about 20 pixels wide there


@pytest.fixture(scope="module")
def unseen() -> tuple[np.ndarray, np.ndarray]:
    """A slice (H, W) of the demo's volume, of another generator than that of the training, and its instance ids."""
    images, truth = make_synthetic_volume((3, 256, 256), "target", 3)
    return images[1], truth[1]


def test_the_file_is_whole_small_and_described() -> None:
    model = list_models()["em-small"]
    assert find_weights("em-small") == model.file  # compares the SHA-256
    assert model.file.stat().st_size < 10e6
    assert read_pixel_size(model) == Predictor("em-small", pixel_size=8, device="cpu").cfg.INPUT.PIXEL_SIZE
    assert model.card is not None
    assert "Limits" in model.card.read_text()


def test_its_settings_hold_wherever_it_is_named_and_can_be_changed() -> None:
    assert Predictor("em-small", pixel_size=8, device="cpu").cfg.TEST.MIN_CONFIDENCE == 0.985
    args = Namespace(eval_only=True, weights="em-small", config_file="")
    assert config_of_args(args, []).TEST.MIN_CONFIDENCE == 0.985
    assert config_of_args(args, ["TEST.MIN_CONFIDENCE", "0.5"]).TEST.MIN_CONFIDENCE == 0.5


def test_it_segments_an_unseen_volume_and_follows_clicks(unseen: tuple[np.ndarray, np.ndarray]) -> None:
    image, truth = unseen
    _, centers = instance_centers(truth)
    predictor = Predictor("em-small", pixel_size=PIXEL_SIZE, device="cpu")
    automatic = predictor.predict([], image=image)
    clicked = predictor.predict(centers)
    before, after = (100 * evaluate_slice(truth, one.mask)["Dice"] for one in (automatic, clicked))
    assert before > 40
    assert after > before
    background = np.argwhere(automatic.mask & (truth == 0))
    if len(background):  # a negative click on what is wrong takes it out
        y, x = background[len(background) // 2]
        assert not predictor.predict([(x + 0.5, y + 0.5)], [0]).mask[y, x]
