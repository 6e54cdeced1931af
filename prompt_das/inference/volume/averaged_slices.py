"""Slices whose predictions are averaged with those of their neighbors (prompt_das.ops.depth_average).

Shape legend: H, W pixels of a slice; H', W' at the scale of the network, where the averages are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from prompt_das.inference.volume.slice_tasks import SliceTask, read_ahead
from prompt_das.modeling.meta_arch import NO_POINTS, PromptDAS
from prompt_das.modeling.postprocessing import resize_maps
from prompt_das.ops.click_reach import keep_corrected_objects, limit_to_clicked_objects
from prompt_das.ops.depth_average import average_log_odds, to_log_odds
from prompt_das.ops.mask_rules import MaskRules
from prompt_das.ops.points import as_clicks
from prompt_das.volumes.volume import VolumeError

import numpy as np
import torch
from torch import Tensor

Maps = dict[str, Tensor]


@dataclass(frozen=True)
class OwnPrediction:
    """What the network predicts of one slice, in half precision.

    Attributes:
        log_odds: (H', W') with the clicks of the slice, which have the reach of the network.
        automatic: (H', W') probability without them; None where there are none.
        density: (H', W') of center points with the clicks; None where it is not asked for.
    """

    log_odds: Tensor
    automatic: Tensor | None
    density: Tensor | None


def predict_averaged(
    model: PromptDAS,
    reader: Executor,
    tasks: Sequence[SliceTask],
    weights: np.ndarray,
    density: bool,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[SliceTask, Maps | VolumeError]]:
    """Yield each slice with its maps (H, W), or why it cannot be read.

    The network predicts each slice once, also those that are only neighbors; held are those that are still needed.
    A neighbor that cannot be read is left out.

    Args:
        weights: see :func:`prompt_das.ops.depth_average.depth_weights`.
    """
    last_use = {one.z: task.z for task in tasks for one in (*task.neighbors, task)}  # tasks are in order
    images = read_ahead(reader, _each_once(tasks))
    own: dict[int, OwnPrediction | VolumeError] = {}
    for task in tasks:
        while not all(one.z in own for one in (task, *task.neighbors)):
            one, image = next(images)
            own[one.z] = image if isinstance(image, VolumeError) else _predict_own(model, image, one, density, progress)
        mine = own[task.z]
        if isinstance(mine, VolumeError):
            yield task, mine
        else:
            around = [(abs(one.z - task.z), own[one.z]) for one in task.neighbors]
            readable = [(distance, found) for distance, found in around if isinstance(found, OwnPrediction)]
            yield task, _average(model, task, mine, readable, weights)
        own = {z: one for z, one in own.items() if last_use[z] > task.z}


def _each_once(tasks: Sequence[SliceTask]) -> list[SliceTask]:
    """The slices of the tasks and their neighbors, in order."""
    slices = {one.z: one for task in tasks for one in (*task.neighbors, task)}
    return [slices[z] for z in sorted(slices)]


def _predict_own(
    model: PromptDAS,
    image: np.ndarray,
    task: SliceTask,
    density: bool,
    progress: Callable[[int, int], None] | None,
) -> OwnPrediction:
    size = image.shape[0], image.shape[1]
    clicks = _at_network(task, size)
    prompts = {"clicked": clicks, **({"automatic": NO_POINTS} if len(clicks) else {})}
    none = MaskRules()  # the reach of clicks follows below, the rest after the average
    maps = model.predict_slice(
        torch.from_numpy(image)[None], prompts, size, with_density=density, rules=none, progress=progress
    )
    probability, automatic = maps["sem_seg"]["clicked"], maps["sem_seg"].get("automatic")
    if automatic is not None and model.rules.needs_automatic(clicks):
        limited = limit_to_clicked_objects(automatic.cpu().numpy(), probability.cpu().numpy(), clicks)
        probability = torch.from_numpy(limited).to(automatic)
    return OwnPrediction(
        to_log_odds(probability),
        None if automatic is None else automatic.half(),
        maps["density"]["clicked"].half() if density else None,
    )


def _average(
    model: PromptDAS,
    task: SliceTask,
    own: OwnPrediction,
    around: Sequence[tuple[int, OwnPrediction]],
    weights: np.ndarray,
) -> Maps:
    """A slice and its neighbors, each with its distance in slices -> the maps (H, W)."""
    slices = [(0, own), *around]
    of_slices = [float(weights[distance]) for distance, _ in slices]
    probability = average_log_odds([one.log_odds for _, one in slices], of_slices).cpu()
    if own.automatic is not None:
        clicks = _at_network(task, (probability.shape[0], probability.shape[1]))
        mine, automatic = own.log_odds.float().sigmoid().cpu().numpy(), own.automatic.float().cpu().numpy()
        probability = torch.from_numpy(keep_corrected_objects(probability.numpy(), mine, automatic, clicks))
    probability = resize_maps(probability[None], task.size)[0]
    rules = replace(model.rules, click_reach="image")  # the reach of clicks is in it already
    probability = torch.from_numpy(rules(probability.numpy(), None, as_clicks(task.points)))
    maps = {"probability": probability}
    if own.density is not None:
        maps["density"] = resize_maps(own.density[None].float(), task.size)[0]
    return maps


def _at_network(task: SliceTask, size: tuple[int, int]) -> np.ndarray:
    """The clicks (N, 3) in pixels of the network's image of ``size`` (H', W')."""
    factors = np.array([size[1] / task.size[1], size[0] / task.size[0], 1], np.float32)
    last = np.nextafter(np.array([size[1], size[0], 2], np.float32), np.float32(0))  # a rounded product may lie outside
    return np.minimum(as_clicks(task.points) * factors, last)
