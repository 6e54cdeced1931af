"""The network over the slices of a volume: read, predict, write, in this process or in a worker of a cluster.

Maps are stored as uint8, 255 is 1, see :mod:`prompt_das.ops.stored_maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from prompt_das.inference.volume.averaged_slices import predict_averaged
from prompt_das.inference.volume.durable import Receipt, make_receipt
from prompt_das.inference.volume.executors import device_of_worker
from prompt_das.inference.volume.slice_tasks import SliceTask, read_ahead
from prompt_das.inference.volume.store import flush_slice, paths_of_slice
from prompt_das.modeling.load import load_model, resolve_device
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.stored_maps import as_stored
from prompt_das.volumes.ome_zarr import finest
from prompt_das.volumes.volume import VolumeError

import numpy as np
import torch
import zarr
from torch import Tensor


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


class SliceResult(NamedTuple):
    """What became of the slice z: the receipt of what was written, or the problem that it cannot be read for."""

    z: int
    receipt: Receipt | None
    problem: str | None


def predict_slices(
    network: Network,
    store: str,
    density: bool,
    depth_weights: np.ndarray,
    tasks: Sequence[SliceTask],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[SliceResult]:
    """Predict slices into the arrays of ``store``, and yield each that is on the disk, or cannot be read.

    The next slice is read and the last one is written while the network works.

    Args:
        depth_weights: of the neighbors of a slice, see :func:`prompt_das.ops.depth_average.depth_weights`.
    """
    _, model = load_network(network)
    group: Any = zarr.open_group(store, mode="r+")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        if len(depth_weights) > 1:
            predicted = predict_averaged(model, reader, tasks, depth_weights, density, progress)
        else:
            predicted = _predict_alone(model, reader, tasks, density, progress)
        writing: Future[SliceResult] | None = None
        for task, maps in predicted:
            if writing is not None:
                yield writing.result()
                writing = None
            if isinstance(maps, VolumeError):
                yield SliceResult(task.z, None, str(maps))
            else:
                writing = writer.submit(_write, group, Path(store), task.z, _as_stored(maps, task.z))
        if writing is not None:
            yield writing.result()


def _predict_alone(
    model: PromptDAS,
    reader: ThreadPoolExecutor,
    tasks: Sequence[SliceTask],
    density: bool,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[SliceTask, dict[str, Tensor] | VolumeError]]:
    """Yield each slice with its maps (H, W), or why it cannot be read."""
    for task, image in read_ahead(reader, tasks):
        if isinstance(image, VolumeError):
            yield task, image
            continue
        prompts = {"points": task.points}
        outputs = model.predict_slice(
            torch.from_numpy(image)[None], prompts, task.size, with_density=density, progress=progress
        )
        maps = {"probability": outputs["sem_seg"]["points"]}
        if density:
            maps["density"] = outputs["density"]["points"]
        yield task, maps


def _as_stored(maps: Mapping[str, Tensor], z: int) -> dict[str, np.ndarray]:
    for name, one in maps.items():
        if not torch.isfinite(one).all():
            raise ValueError(f"{name} of slice {z} is not finite: the weights are damaged, or diverged in training")
    return {name: as_stored(one) for name, one in maps.items()}


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
