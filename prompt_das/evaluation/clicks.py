"""How a model follows clicks: simulated users, the curve against their clicks, and the effect of one click.

The network is a function ``predict`` from clicks (N, 3), as (x, y, label), to the (H, W) foreground probability of a
slice. Shapes: H, W pixels of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prompt_das.evaluation import metrics
from prompt_das.ops.connected_components import (
    FOREGROUND_THRESHOLD,
    MIN_INSTANCE_SIZE,
    connected_components,
    semantic_to_instances,
)
from prompt_das.ops.points import NEGATIVE, POSITIVE, instance_centers, random_pixels

import cv2
import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
NO_CLICKS = np.zeros((0, 3), np.float32)
WRONG = 0.1  # a predicted component is a wrong object if at most this fraction of its pixels is true
EFFECTS = ("missed", "appeared", "others", "others appeared", "wrong", "gone", "changed", "changed elsewhere")


@dataclass(frozen=True)
class User:
    """A simulated user, who clicks at the largest error.

    Attributes:
        anywhere: probability of clicking anywhere inside the error instead of at its center.
        double: probability of clicking twice, the second time on a pixel beside.
        mistake: probability of a positive click on background where a correct click was due.
    """

    anywhere: float = 0.0
    double: float = 0.0
    mistake: float = 0.0


USERS = {"careful": User(), "sloppy": User(anywhere=1.0, double=0.1, mistake=0.1)}


def corrective_click(truth: np.ndarray, mask: np.ndarray, user: User, rng: np.random.Generator) -> np.ndarray:
    """The next clicks of a user who sees a predicted mask: one, two for a double click, none if all is right.

    The largest error is that which holds the largest disc, among missed and wrong pixels; a careful click lies at the
    center of the disc, as in the evaluation of RITM (Sofiiuk et al. 2022).

    Args:
        truth, mask: (H, W) bool.

    Returns:
        (n, 3) clicks, n = 0, 1 or 2.
    """
    errors = {POSITIVE: truth & ~mask, NEGATIVE: mask & ~truth}
    depths = {label: _depth(error) for label, error in errors.items()}
    label = max(depths, key=lambda one: depths[one].max())
    depth = depths[label]
    if depth.max() == 0:
        return NO_CLICKS
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    if rng.random() < user.mistake and not truth.all():
        label, point = POSITIVE, random_pixels(~truth, 1, rng)[0]
    elif rng.random() < user.anywhere:
        components = connected_components(errors[label])
        point = random_pixels(components == components[row, column], 1, rng)[0]
    else:
        point = np.array([column + 0.5, row + 0.5])
    click = np.array([*point, label], np.float32)
    if rng.random() >= user.double:
        return click[None]
    beside = click + np.array([*rng.integers(-1, 2, 2), 0])
    beside[:2] = np.clip(beside[:2], 0.5, np.array(truth.shape[::-1]) - 0.5)
    return np.stack([click, beside]).astype(np.float32)


def click_curve(
    predict: Predict, truth: np.ndarray, numbers: Sequence[int], user: User, rng: np.random.Generator
) -> dict[int, dict[str, float]]:
    """Correct a slice click by click -> for each of the ``numbers`` of clicks the counts of its metrics.

    A user who sees no error stops, and the counts stay. A double click counts once.

    Args:
        truth: (H, W) bool; its 8-connected components are the instances (protocol ``paper``).
    """
    instances = connected_components(truth)
    clicks, curve = NO_CLICKS, {}
    for number in range(max(numbers) + 1):
        mask = predict(clicks) > FOREGROUND_THRESHOLD
        if number in numbers:
            curve[number] = metrics.count(metrics.contingency_table(instances, semantic_to_instances(mask)))
        clicks = np.concatenate([clicks, corrective_click(truth, mask, user, rng)])
    return curve


def single_click_effects(predict: Predict, truth: np.ndarray) -> dict[str, int]:
    """What one click does on a slice: a click on each missed instance and each wrong object, one at a time.

    An instance is missed if at most half of it is covered. A wrong object is a predicted component with at most a tenth
    of its pixels on true instances; it is gone if less than half of it is still foreground.

    Args:
        truth: (H, W) bool.

    Returns:
        ``missed``, ``appeared`` when clicked; ``others``: pairs of a clicked and another missed instance, and ``others
        appeared``; ``wrong``, ``gone``; pixels ``changed`` by all these clicks, and ``changed elsewhere``: not in the
        connected part of the change that holds the click.
    """
    before = predict(NO_CLICKS) > FOREGROUND_THRESHOLD
    effects = dict.fromkeys(EFFECTS, 0)

    def count_changes(after: np.ndarray, click: np.ndarray) -> None:
        components = connected_components(before ^ after)
        here = components[int(click[1]), int(click[0])]
        effects["changed"] += int((components > 0).sum())
        effects["changed elsewhere"] += int(((components > 0) & (components != here)).sum())

    instances = connected_components(truth)
    ids, centers = instance_centers(instances)
    missed = _coverage(instances, before)[ids] <= 0.5
    effects["missed"] = int(missed.sum())
    for chosen, center in zip(ids[missed], centers[missed], strict=True):
        click = np.append(center, POSITIVE)
        after = predict(click[None].astype(np.float32)) > FOREGROUND_THRESHOLD
        covered = _coverage(instances, after)
        others = ids[missed & (ids != chosen)]
        effects["appeared"] += int(covered[chosen] > 0.5)
        effects["others"] += len(others)
        effects["others appeared"] += int((covered[others] > 0.5).sum())
        count_changes(after, click)

    predicted = semantic_to_instances(before, MIN_INSTANCE_SIZE)
    ids, centers = instance_centers(predicted)
    wrong = _coverage(predicted, truth)[ids] <= WRONG
    effects["wrong"] = int(wrong.sum())
    for chosen, center in zip(ids[wrong], centers[wrong], strict=True):
        click = np.append(center, NEGATIVE)
        after = predict(click[None].astype(np.float32)) > FOREGROUND_THRESHOLD
        effects["gone"] += int(after[predicted == chosen].mean() < 0.5)
        count_changes(after, click)
    return effects


def summarize_curves(curves: Sequence[Mapping[int, Mapping[str, float]]]) -> dict[int, dict[str, float]]:
    """Curves of all slices -> for each number of clicks the mean scores in percent."""
    return {
        number: {
            name: 100 * float(np.mean([metrics.scores(curve[number])[name] for curve in curves]))
            for name in metrics.SCORES
        }
        for number in curves[0]
    }


def summarize_effects(effects: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Effects of all slices -> their sums, and ratios of them in percent (nan where there is nothing)."""
    total = {name: sum(one[name] for one in effects) for name in EFFECTS}

    def percent(part: str, whole: str) -> float:
        return 100 * total[part] / total[whole] if total[whole] else float("nan")

    return {
        **total,
        "appeared %": percent("appeared", "missed"),
        "others appeared %": percent("others appeared", "others"),
        "gone %": percent("gone", "wrong"),
        "changed elsewhere %": percent("changed elsewhere", "changed"),
    }


def _depth(region: np.ndarray) -> np.ndarray:
    """(H, W) distance to the nearest pixel outside of a region, whose border is the border of the image, too."""
    padded = np.pad(region, 1).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _coverage(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n + 1,): for each label 0 ... n the fraction of its pixels inside a mask (H, W) bool."""
    area = np.bincount(labels.ravel())
    return np.bincount(labels.ravel(), weights=mask.ravel(), minlength=len(area)) / np.maximum(area, 1)
