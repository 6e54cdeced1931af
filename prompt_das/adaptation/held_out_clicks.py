"""Clicks that are kept aside from an adaptation: which ones, and how well a network segments at their places.

No masks are needed. The starting network says what the object at a held-out click is: what it finds there by itself, or
else what it segments when it is clicked there. A network that adapts well finds that object without the click, and
keeps what the starting network was sure of around it. Where that was in doubt, at the borders of objects above all, it
may decide otherwise: there an adaptation gains most, and there it does harm first, since whatever grows finds more.
So what is found is weighed against the foreground that it takes (Lee and Liu, ICML 2003: with positive and
unlabeled examples alone, recall^2 / Pr[f = 1] of a classifier f is proportional to precision times recall).

Shapes: N clicks (x, y, label), label 1 positive or 0 negative; S side of a window in pixels of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prompt_das.data.crop_reader import CropReader
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
SURE = 0.9  # probability of the foreground, or of the background, from which on the starting network is believed


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


def some_positive(clicks: Mapping[int, np.ndarray], most: int) -> SliceClicks:
    """Up to ``most`` positive clicks, evenly spread over all of them; (n, 3) by slice."""
    rows = [(z, click) for z in sorted(clicks) for click in clicks[z] if click[2] == POSITIVE]
    spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))
    chosen = [rows[i] for i in spread]
    return {z: np.stack([click for at, click in chosen if at == z]) for z in sorted({z for z, _ in chosen})}


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


class Known(NamedTuple):
    """What is believed of a window: from its click, and from what the starting network is sure of.

    Attributes:
        clicked: (S, S) bool, pixels of the object at a positive click; none at a negative one.
        others: (S, S) bool, pixels of other objects, without one that a negative click is on.
        background: (S, S) bool.
        num_others: the number of other objects.
    """

    clicked: np.ndarray
    others: np.ndarray
    background: np.ndarray
    num_others: int


class HeldOutScore:
    """The score of a network at held-out clicks: recall x agreement x known foreground / predicted foreground.

    The recall, 0 to 1, is a mean over positive clicks and over the other objects around all clicks. A click has the IoU
    of the component of the automatic mask that holds it (0 where there is none, or where it floods the window) with the
    object there, other objects have their common IoU. Only pixels that :class:`Known` labels are counted here, all
    pixels of the mask in the foreground. The agreement is the same mean with the negative clicks in it, each 1 if its
    pixel is background; not the recall, since an empty mask agrees with all of them.

    The score falls where objects are lost, and where the mask grows without finding more of what is known. It is 0
    where nothing is found, seldom above 1, and only to be compared with that of another network in the same windows.
    """

    def __init__(self, windows: ClickWindows, start: PromptDAS, sigma: float) -> None:
        """
        Args:
            start: the network before the adaptation, in eval mode; it is used here and not kept.
            sigma: MODEL.CENTER_HEAD.SIGMA, for the disc that stands for an object which ``start`` does not segment.
        """
        self.windows = windows
        maps = zip(windows.predict(start), windows.predict(start, clicked=True), windows.clicks, strict=True)
        self.known = [known_of_window(*of_click, DISC_SIGMAS * sigma) for of_click in maps]
        self.known_foreground = sum(int((known.clicked | known.others).sum()) for known in self.known)

    def __call__(self, model: PromptDAS) -> float:
        """The score of a network in eval mode. NaN without any click."""
        if not len(self.windows):
            return float("nan")
        of_clicks, of_others, foreground = [], [], 0
        for probability, click, known in zip(self.windows.predict(model), self.windows.clicks, self.known, strict=True):
            mask, at_click = probability > FOREGROUND_THRESHOLD, component_at(probability, click)
            of_clicks.append(score_of_click(at_click, click, known))
            of_others.append(overlap(mask & ~at_click, known.others, known.background))
            foreground += int(mask.sum())
        others = [iou(*np.sum(of_others, axis=0))] * sum(known.num_others for known in self.known)
        positive = np.array(of_clicks)[self.windows.clicks[:, 2] == POSITIVE]
        recall, agreement = np.mean([*positive, *others]), np.mean([*of_clicks, *others])
        return float(recall * agreement * self.known_foreground / max(foreground, 1))


def component_at(probability: np.ndarray, click: np.ndarray) -> np.ndarray:
    """(S, S) bool: the component of the mask that holds the click; empty where the click is on background."""
    components = connected_components(probability > FOREGROUND_THRESHOLD)
    number = components[int(click[1]), int(click[0])]
    return np.asarray((components == number) & (number > 0))


def known_of_window(automatic: np.ndarray, clicked: np.ndarray, click: np.ndarray, radius: float) -> Known:
    """What a click and the starting network say of a window.

    Args:
        automatic, clicked: (S, S) foreground probability without and with the click.
        click: (3,) as (x, y, label).
        radius: of the disc that stands for an object which is found neither way, in pixels.
    """
    at_click = component_at(automatic, click)
    if click[2] == NEGATIVE:
        known = np.zeros_like(at_click)
    else:
        known, at_click = object_at(automatic, clicked, click, radius)
    components = connected_components((automatic > FOREGROUND_THRESHOLD) & ~at_click)
    others = (components > 0) & (automatic >= SURE)
    background = (automatic <= 1 - SURE) & ~at_click
    return Known(known, others, background, len(np.unique(components[others])))


def object_at(
    automatic: np.ndarray, clicked: np.ndarray, click: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """The object at a click, predicted without it, else with it, else a disc of ``radius`` pixels.

    A component that floods the window is no object either.

    Returns:
        (S, S) bool each: the pixels that are surely its own, and all of them.
    """
    for probability in (automatic, clicked):
        found = component_at(probability, click)
        if found.any() and found.mean() <= LARGEST:
            sure = found & (probability >= SURE)
            return (sure if sure.any() else found), found
    rows, columns = np.ogrid[: found.shape[0], : found.shape[1]]
    disc = (columns + 0.5 - click[0]) ** 2 + (rows + 0.5 - click[1]) ** 2 <= max(radius, 1.0) ** 2
    return disc, disc


def score_of_click(at_click: np.ndarray, click: np.ndarray, known: Known) -> float:
    """The score of one click, see :class:`HeldOutScore`; ``at_click``: (S, S) bool, the component that holds it."""
    if click[2] == NEGATIVE:
        return float(not at_click.any())
    if at_click.mean() > LARGEST:
        return 0.0
    return iou(*overlap(at_click, known.clicked, known.background | known.others))


def overlap(mask: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> tuple[int, int]:
    """Pixels in the intersection of a mask with ``foreground``, and in the union of both; others are not counted."""
    return int((mask & foreground).sum()), int((foreground | (mask & background)).sum())


def iou(intersection: int, union: int) -> float:
    """1 where both are empty."""
    return intersection / union if union else 1.0
