"""A tiny predictor, and what its tests measure it with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.resize import Box
from prompt_das.modeling import PromptDAS
from prompt_das.volumes.resize import resize_image

import numpy as np
import pytest
import torch

HEIGHT, WIDTH = 70, 60
NONE = np.zeros((0, 2), np.float32)
POINTS = np.array([[8.5, 9.5], [40.5, 20.5], [50.2, 66.1]], np.float32)

# One window at a time, so that tests can count them.
WINDOWS = ["TEST.WINDOW.STRIDE", "20", "TEST.WINDOW.BATCH_SIZE", "1"]

Make = Callable[..., Predictor]


def gray(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


IMAGE = gray(0)


def tiny_predictor(tiny: list[str], *opts: str, cache_bytes: int = 1 << 30) -> Predictor:
    """Windows of 32 px every 20 px, and a network whose answer hangs on its points more than an untrained one's."""
    cfg = get_prompt_das_cfg(None, [*tiny, *WINDOWS, "TEST.MIN_INSTANCE_SIZE", "3", *opts])
    torch.manual_seed(0)
    model = PromptDAS(cfg)
    with torch.no_grad():
        for parameter in model.segmentation_head.parameters():
            parameter *= 3
    return Predictor.from_model(cfg, model, cache_bytes=cache_bytes)


class Calls:
    """Counts what the network of a predictor does. While ``go_on`` is not set, the encoder stands still."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded, self.decoded, self.heads = 0, 0, 0
        self.in_encode, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.looking_for_an_embedding = 0
        embeddings = predictor._windows.embeddings
        model = predictor._model
        encode, decode, center_head = model.encode, model.decode, model.center_head.forward

        def counted_encode(images: torch.Tensor) -> torch.Tensor:
            self.encoded += len(images)
            self.in_encode.set()
            assert self.go_on.wait(30)
            return encode(images)

        def counted_decode(*args: Any, **kwargs: Any) -> Any:
            self.decoded += 1
            return decode(*args, **kwargs)

        def counted_head(*args: Any) -> Any:
            self.heads += 1
            return center_head(*args)

        def counted_embeddings(*args: Any) -> torch.Tensor:
            self.looking_for_an_embedding += 1
            return embeddings(*args)

        monkeypatch.setattr(predictor._windows, "embeddings", counted_embeddings)
        monkeypatch.setattr(model, "encode", counted_encode)
        monkeypatch.setattr(model, "decode", counted_decode)
        monkeypatch.setattr(model.center_head, "forward", counted_head)

    def take(self) -> tuple[int, int]:
        """(windows encoded, windows decoded) since the last time."""
        taken = self.encoded, self.decoded
        self.encoded = self.decoded = 0
        return taken


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    y0, x0, y1, x1 = box
    return array[y0:y1, x0:x1]


def by_the_network(predictor: Predictor, image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What evaluation says: the whole slice in one go."""
    height, width = image.shape
    seen = torch.from_numpy(resize_image(image.astype(np.float32), predictor.cfg.INPUT.SCALE))[None]
    (out,) = predictor._model([{"image": seen, "height": height, "width": width, "prompts": {"all": points}}])
    return out["sem_seg"]["all"].numpy()


def make_again(predictor: Predictor) -> Predictor:
    """The same network on the same slice, with no memory of anything."""
    again = Predictor.from_model(predictor.cfg, predictor._model, cache_bytes=0)
    again.set_image(IMAGE)
    return again
