"""Clicks that are kept aside from an adaptation: which ones, and how well a network segments at their places.

No masks are needed. The starting network says what the object at a held-out click is: what it finds there by itself, or
else what it segments when it is clicked there. A network that adapts well finds that object without the click. A mask
that floods everything holds all positive clicks, but its component is none of the objects; and negative clicks must
stay background.

Shapes: N clicks (x, y, label), label 1 positive or 0 negative; S side of a window in pixels of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prompt_das.data.dataset_mapper import CropReader
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, connected_components
from prompt_das.ops.points import NEGATIVE, POSITIVE, as_clicks
from prompt_das.volumes.point_files import SliceClicks
from prompt_das.volumes.volume import Box

import numpy as np
import torch
from torch import Tensor

RATIO = 0.2  # of the clicks
ENOUGH = 10  # clicks in all from which on at least LEAST are held out: a score of one or two says next to nothing
LEAST = 3
MOST = 64  # more of them tell hardly more, and each is a window to predict every time
# Of the disc that takes the place of an object where the starting network does not follow a click, in sigmas of the
# center-point head: about the radius of a small object. Any fixed disc does: scores are only compared with each other.
DISC_SIGMAS = 2.0
LARGEST = 0.5  # of a window: what covers more is a mask that floods it, and no object


def split_clicks(clicks: Mapping[int, np.ndarray], seed: int) -> tuple[SliceClicks, SliceClicks]:
    """Split clicks into those to train with and those to hold out, a fifth of the positive and of the negative ones.

    The split depends on the clicks and the seed, not on the order of a file. At least one positive click is held out.

    Args:
        clicks: (n, 3) of slices, by slice index.

    Returns:
        the clicks to train with, of all slices, and the held-out ones, of the slices that have some.
    """
    rows = np.concatenate([np.zeros((0, 4)), *(np.column_stack([np.full(len(c), z), c]) for z, c in clicks.items())])
    rows = rows[np.lexsort(rows.T[::-1])]  # by slice, x, y, label
    rng = np.random.default_rng(seed)
    positive, negative = (rng.permutation(np.flatnonzero(rows[:, 3] == label)) for label in (POSITIVE, NEGATIVE))
    num_negative = min(round(RATIO * len(negative)), MOST // 2)
    least = max(LEAST - num_negative, 1) if len(rows) >= ENOUGH else 1
    num_positive = min(max(round(RATIO * len(positive)), least), MOST - num_negative, len(positive))
    held = np.zeros(len(rows), bool)
    held[positive[:num_positive]] = held[negative[:num_negative]] = True
    train = {z: as_clicks(rows[~held & (rows[:, 0] == z), 1:]) for z in sorted(clicks)}
    held_out = {int(z): as_clicks(rows[held & (rows[:, 0] == z), 1:]) for z in np.unique(rows[held, 0])}
    return train, held_out


class ClickWindows:
    """A window of a volume around each click, as the network takes it; the click is in the middle where it can be.

    Attributes:
        images: (N, 1, S, S) gray values 0-255.
        clicks: (N, 3) in pixels of the window.
    """

    def __init__(self, slices: Sequence[dict[str, Any]], clicks: Mapping[int, np.ndarray], crop: CropReader) -> None:
        """
        Args:
            slices: dicts as in :mod:`prompt_das.data.slices`; those of the clicks are read.
            clicks: (n, 3) of slices in pixels of the slice, by slice index.
            crop: reads windows of the network's size, at the network's scale.

        Raises:
            VolumeError: a slice cannot be read.
            KeyError: a click is on a slice that is not in ``slices``.
        """
        dict_of = {dataset_dict["slice"]: dataset_dict for dataset_dict in slices}
        images, moved = [], []
        for z in sorted(clicks):
            for click in clicks[z]:
                box = box_around(click, crop.side, dict_of[z])
                images.append(crop.read_image(dict_of[z], box))
                # A click in the last fraction of a pixel stays inside the window.
                point = np.minimum((click[:2] - (box[1], box[0])) * crop.scale, np.float32(crop.size - 0.5))
                moved.append([*point, click[2]])
        self.images = torch.from_numpy(np.stack(images))[:, None] if images else torch.zeros(0, 1, crop.size, crop.size)
        self.clicks = as_clicks(np.array(moved, np.float32))

    def __len__(self) -> int:
        return len(self.clicks)

    def predict(self, model: PromptDAS, *, clicked: bool = False) -> Iterator[np.ndarray]:
        """The (S, S) foreground probability of each window, without any prompt or, ``clicked``, with its click."""
        prompts = torch.from_numpy(self.clicks)[:, None, None][:, :, : int(clicked)]  # (N, 1, 1 or 0, 3)
        size = model.window["batch_size"]
        for start in range(0, len(self), size):
            batch = slice(start, start + size)
            yield from predict_windows(model, self.images[batch], prompts[batch])


@torch.no_grad()
def predict_windows(model: PromptDAS, images: Tensor, prompts: Tensor) -> np.ndarray:
    """Windows (B, 1, S, S) and the prompts of each (B, 1, N, 3) -> (B, S, S) foreground probability."""
    prompts = prompts.to(model.device)
    valid = torch.ones(prompts.shape[:3], dtype=torch.bool, device=model.device)
    return model.predict_windows(images.to(model.device), prompts, valid)[:, 0].cpu().numpy()


def box_around(click: np.ndarray, side: int, dataset_dict: Mapping[str, Any]) -> Box:
    """The box (y0, x0, y1, x1) of ``side`` pixels around a click, moved into the slice, which may be smaller."""
    start, stop = [], []
    for at, length in ((click[1], dataset_dict["height"]), (click[0], dataset_dict["width"])):
        first = min(max(int(at) - side // 2, 0), max(length - side, 0))
        start.append(first)
        stop.append(min(first + side, length))
    return start[0], start[1], stop[0], stop[1]


class HeldOutScore:
    """The score of a network at held-out clicks, 0 to 1.

    Of a positive click it is the IoU of two objects: the component of the automatic mask that holds the click (0 where
    there is none, or where it floods the window), and what the starting network segments there: by itself, or if it
    misses the object, when it is clicked. So a network that changes what was found, to the larger for example, loses,
    and one that finds more gains. Of a negative click it is 1 if its pixel is background. The score is the mean over
    the clicks.
    """

    def __init__(self, windows: ClickWindows, start: PromptDAS, sigma: float) -> None:
        """
        Args:
            start: the network before the adaptation, in eval mode; it is used here and not kept.
            sigma: MODEL.CENTER_HEAD.SIGMA, for the disc that stands for an object which ``start`` does not segment.
        """
        self.windows = windows
        maps = zip(windows.predict(start), windows.predict(start, clicked=True), windows.clicks, strict=True)
        self.objects = [object_at(*of_click, DISC_SIGMAS * sigma) for of_click in maps]

    def __call__(self, model: PromptDAS) -> float:
        """The score of a network in eval mode. NaN without any click."""
        scores = [
            score_of_click(probability, click, known)
            for probability, click, known in zip(
                self.windows.predict(model), self.windows.clicks, self.objects, strict=True
            )
        ]
        return float(np.mean(scores)) if scores else float("nan")


def component_at(probability: np.ndarray, click: np.ndarray) -> np.ndarray:
    """(S, S) bool: the component of the mask that holds the click; empty where the click is on background."""
    components = connected_components(probability > FOREGROUND_THRESHOLD)
    number = components[int(click[1]), int(click[0])]
    return np.asarray((components == number) & (number > 0))


def object_at(automatic: np.ndarray, clicked: np.ndarray, click: np.ndarray, radius: float) -> np.ndarray:
    """(S, S) bool: the component at a click, predicted without it, else with it, else a disc of ``radius`` pixels.

    A component that floods the window is no object either.
    """
    for probability in (automatic, clicked):
        found = component_at(probability, click)
        if found.any() and found.mean() <= LARGEST:
            return found
    rows, columns = np.ogrid[: found.shape[0], : found.shape[1]]
    return (columns + 0.5 - click[0]) ** 2 + (rows + 0.5 - click[1]) ** 2 <= max(radius, 1.0) ** 2


def score_of_click(probability: np.ndarray, click: np.ndarray, known: np.ndarray) -> float:
    """The score of one click, see :class:`HeldOutScore`; ``known``: (S, S) bool, the object of a positive one."""
    found = component_at(probability, click)
    if click[2] == NEGATIVE:
        return float(not found.any())
    return float((found & known).sum() / (found | known).sum()) if found.mean() <= LARGEST else 0.0
