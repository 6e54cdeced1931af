"""The network over the slices of a volume: read, predict, write, in this process or in a worker of a cluster.

Maps are stored as uint8, 255 is 1, see :mod:`prompt_das.ops.stored_maps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from prompt_das.data.slices import read_image
from prompt_das.inference.volume.durable import Receipt, make_receipt
from prompt_das.inference.volume.executors import device_of_worker
from prompt_das.inference.volume.store import flush_slice, paths_of_slice
from prompt_das.modeling.load import load_model, resolve_device
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.stored_maps import as_stored
from prompt_das.volumes.ome_zarr import finest
from prompt_das.volumes.volume import VolumeError

import numpy as np
import torch
import zarr


@dataclass(frozen=True)
class Network:
    """Which network predicts, and where: a worker in another process loads it from this.

    ``digest`` is of the files: a worker that lives on must not take a network of before for one of the same name.
    """

    weights: str
    config_file: str | None
    opts: tuple[str, ...]
    plugins: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class SliceTask:
    """One slice to predict.

    Attributes:
        z: its index in the output.
        entry: its dict (prompt_das.data.slices).
        points: its clicks (N, 3).
        scale: network pixels per image pixel.
    """

    z: int
    entry: Mapping[str, Any]
    points: np.ndarray
    scale: float


class SliceResult(NamedTuple):
    """What became of the slice z: the receipt of what was written, or the problem that it cannot be read for."""

    z: int
    receipt: Receipt | None
    problem: str | None


def predict_slices(
    network: Network,
    store: str,
    density: bool,
    tasks: Sequence[SliceTask],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[SliceResult]:
    """Predict slices into the arrays of ``store``, and yield each that is on the disk, or cannot be read.

    The next slice is read and the last one is written while the network works.
    """
    _, model = load_network(network)
    group: Any = zarr.open_group(store, mode="r+")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = reader.submit(_try_to_read, tasks[0]) if tasks else None
        writing: Future[SliceResult] | None = None
        for task, following in itertools.zip_longest(tasks, tasks[1:]):
            image: Any = ahead.result() if ahead is not None else None
            ahead = reader.submit(_try_to_read, following) if following is not None else None
            maps = None
            if not isinstance(image, VolumeError):
                maps = _predict_slice(model, image, task, density, progress)
            if writing is not None:
                yield writing.result()
                writing = None
            if maps is not None:
                writing = writer.submit(_write, group, Path(store), task.z, maps)
            else:
                yield SliceResult(task.z, None, str(image))
        if writing is not None:
            yield writing.result()


def _predict_slice(
    model: PromptDAS,
    image: Any,
    task: SliceTask,
    density: bool,
    progress: Callable[[int, int], None] | None,
) -> dict[str, np.ndarray]:
    outputs = model.predict_slice(
        torch.from_numpy(image)[None],
        {"points": task.points},
        (task.entry["height"], task.entry["width"]),
        with_density=density,
        progress=progress,
    )
    maps = {"probability": outputs["sem_seg"]["points"]}
    if density:
        maps["density"] = outputs["density"]["points"]
    for name, one in maps.items():
        if not torch.isfinite(one).all():
            raise ValueError(
                f"{name} of slice {task.z} is not finite: the weights are damaged, or diverged in training"
            )
    return {name: as_stored(one) for name, one in maps.items()}


def _try_to_read(task: SliceTask) -> Any:
    try:
        return read_image(dict(task.entry), scale=task.scale)
    except VolumeError as error:
        return error


def _write(group: Any, store: Path, z: int, maps: Mapping[str, np.ndarray]) -> SliceResult:
    """Write the maps of a slice and bring them to the disk."""
    for name, one in maps.items():
        finest(group, name)[z] = one
    flush_slice(group, store, maps, z)
    return SliceResult(z, make_receipt(*paths_of_slice(group, store, maps, z)), None)


@lru_cache(maxsize=1)
def load_network(network: Network) -> tuple[Any, PromptDAS]:
    cfg, model = load_model(network.weights, network.config_file, network.opts, network.plugins)
    return cfg, model.to(device_of_worker(str(resolve_device(cfg))))
