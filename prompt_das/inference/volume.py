"""Prediction of whole volumes, out of core, in three steps that can each be stopped and repeated:

1. The network predicts slice by slice, here or on a cluster: foreground probability and density of centre points.
2. The foreground becomes instances, of slices or of the volume, block by block.
3. The result gets its name, if need be as a copy in another format, and a table of the instances.

Shapes: Z, H, W slices, height and width of the volume, in voxels. A point is (x, y) in pixels of its slice, the centre
of the first pixel is (0.5, 0.5). Maps are stored as uint8, 255 is 1: a pixel of probability 0.5 is stored as 128, so
the default threshold loses nothing by that.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from tqdm import tqdm

from ..data.dataset_mapper import resize_image
from ..data.datasets import find_volume
from ..data.point_labels import SlicePoints, read_points
from ..data.slices import open_image_volume, read_image
from ..data.volumes import HDF5_SUFFIXES, TIFF_SUFFIXES, VolumeError
from ..data.writers import INSTANCES, VoxelSize, add_instances, create_ome_zarr, write_hdf5, write_tiff
from ..engine.defaults import load_model
from ..files import whole_file
from ..modeling.meta_arch import PromptDAS
from .executors import Executor, device_of_worker, run_here
from .linking import Block, Components, label_block, link_blocks, measure_block, split_into_blocks
from .workspace import Workspace

logger = logging.getLogger(__name__)

STORE = "volume.zarr"  # in the workspace
MAPS = ("probability", "density")
NO_POINTS = np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class Network:
    """Which network predicts, and where: a worker in another process loads it from this.

    ``digest`` is of the files: a worker that lives on must not take a network of before for one of the same name.
    """

    weights: str
    config_file: str | None
    opts: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class SliceTask:
    """One slice to predict: its index in the output, its dict (prompt_das.data.slices), its prompts (N, 2)."""

    z: int
    entry: Mapping[str, Any]
    points: np.ndarray


@dataclass(frozen=True)
class Result:
    """Of a volume: the instances in the order of their ids 1 ... n, and why slices were left out, by their index."""

    instances: Components
    skipped: dict[int, str]


def predict_volume(
    weights: str | Path,
    volume: str | Path,
    output: str | Path,
    *,
    points: str | Path | None = None,
    linked: bool = True,
    threshold: float = 0.5,
    min_size: int | None = None,
    density: bool = True,
    table: str | Path | None = None,
    on_error: str = "stop",
    overwrite: bool = False,
    dataset: str | None = None,
    intensity_range: Sequence[float] | None = None,
    voxel_size: Sequence[float] | None = None,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    executor: Executor = run_here,
    progress: bool = True,
) -> Result | None:
    """Predict a volume. Killed at any moment and called again with equal arguments, it goes on where it was.

    Args:
        weights, config_file, opts: the network, see :func:`prompt_das.engine.defaults.load_model`.
        volume, dataset, intensity_range, voxel_size: see :func:`prompt_das.data.datasets.find_volume`.
        output: ``*.zarr`` (all maps and the labels), ``*.h5`` (the same) or ``*.tif`` (the labels; the maps go beside
            them, to ``*_probability.tif`` and ``*_density.tif``).
        points: file of prompts, see :mod:`prompt_das.data.point_labels`; by default those of the volume's description.
        linked: 3-D instances (26 neighbours of a voxel); otherwise those of each slice (8 neighbours of a pixel).
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many voxels are removed; by default ``TEST.MIN_INSTANCE_SIZE``.
        density: also predict the density of centre points. Without it, the time of the centre-point head is saved.
        table: CSV file with one row for each instance.
        on_error: "stop" at a slice that cannot be read, or "skip" it: it stays background, and the result names it.
        executor: where slices are predicted, see :mod:`prompt_das.inference.executors`.
        progress: show a bar with the time that is left.

    Returns:
        None if the result was complete already.

    Raises:
        FileExistsError: there is a result already, or an unfinished one of other settings.
        FileNotFoundError: no weights, config, volume or points.
        VolumeError: a slice cannot be read.
        ValueError: an argument, the weights or the points make no sense; the message says which.
        OSError: the disk is full, for example; what was done is kept.
    """
    output = Path(output)
    kind = _kind_of(output)
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'stop' or 'skip'")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}; a probability of 0 ... 1 is above it or not")
    weights, config = Path(weights), Path(config_file) if config_file else Path(weights).with_name("config.yaml")
    digest = "".join(_sha256(path.read_bytes()) for path in (weights, config) if path.is_file())
    network = Network(str(weights), str(config_file) if config_file else None, tuple(opts), digest)
    cfg, _ = _load(network)  # also where others predict: to fail early
    entries, spec = find_volume(volume, dataset=dataset, intensity_range=intensity_range, voxel_size=voxel_size)
    shape = (len(entries), entries[0]["height"], entries[0]["width"])
    points = points or spec.points
    prompts = _read_prompts(points, entries)
    min_size = cfg.TEST.MIN_INSTANCE_SIZE if min_size is None else min_size
    about = {
        "image": {"path": entries[0]["file_name"], "dataset": entries[0]["image_dataset"], "slices": shape[0]},
        "intensity_range": entries[0]["intensity_range"],
        "weights": {"name": weights.name, "sha256": _sha256(weights.read_bytes())},
        "network": _sha256(_network_settings(cfg).encode()),
        "window": {"size": cfg.INPUT.CROP_SIZE, "scale": cfg.INPUT.SCALE, **dict(cfg.TEST.WINDOW)},
        "prompts": sum(map(len, prompts.values())),
        "instances": "volume" if linked else "slice",
        "threshold": threshold,
        "min_size": min_size,
    }
    settings = {
        **about,
        "format": kind,
        "maps": MAPS[: 1 + density],
        "voxel_size": spec.voxel_size,
        "prompts": _digest(prompts),
    }
    names = MAPS[: 1 + density]
    with Workspace(output, settings, overwrite=overwrite) as work:
        if work.finished:
            return None
        store = work.folder / STORE
        if not any("created" in note for note in work.notes):
            create_ome_zarr(store, shape, names, spec.voxel_size, about)
            work.note(created=True)
        tasks = [SliceTask(z, entry, prompts.get(entry["slice"], NO_POINTS)) for z, entry in enumerate(entries)]
        predict = partial(predict_slices, network, str(store), density)
        skipped = _predict(work, tasks, predict, executor, on_error, progress)

        group = zarr.open_group(str(store), mode="r+")
        instances = label_instances(group, spec.voxel_size, linked, threshold, min_size, progress)
        group.attrs["prompt_das"] = {**about, "count": len(instances), "skipped": {str(z): skipped[z] for z in skipped}}
        if table is not None:
            write_table(table, instances, linked, spec.voxel_size)
        work.finish(_export(work.folder, group, output, kind, names, spec.voxel_size, progress))
    return Result(instances, skipped)


# ---- slices


def predict_slices(
    network: Network,
    store: str,
    density: bool,
    tasks: Sequence[SliceTask],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, str | None]]:
    """Predict slices into the arrays of ``store``, and yield (z, None) for each that is on the disk.

    The next slice is read and the last one is written while the network works. A slice that cannot be read gives (z,
    what is wrong with it).
    """
    cfg, model = _load(network)
    group: Any = zarr.open_group(store, mode="r+")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = reader.submit(_try_to_read, tasks[0]) if tasks else None
        writing: tuple[int, Future[None]] | None = None
        for task, following in itertools.zip_longest(tasks, tasks[1:]):
            image: Any = ahead.result() if ahead is not None else None
            ahead = reader.submit(_try_to_read, following) if following is not None else None
            maps = None
            if not isinstance(image, VolumeError):
                maps = _predict_slice(model, resize_image(image, cfg.INPUT.SCALE), task, density, progress)
            if writing is not None:
                yield _written(*writing)
                writing = None
            if maps is not None:
                writing = task.z, writer.submit(_write, group, task.z, maps)
            else:
                yield task.z, str(image)
        if writing is not None:
            yield _written(*writing)


def _predict_slice(
    model: PromptDAS,
    image: Any,
    task: SliceTask,
    density: bool,
    progress: Callable[[int, int], None] | None,
) -> dict[str, np.ndarray]:
    inputs = {
        "image": torch.from_numpy(image)[None],
        "height": task.entry["height"],
        "width": task.entry["width"],
        "prompts": {"points": task.points},
        "density": density,
        "progress": progress,
    }
    (outputs,) = model([inputs])
    maps = {"probability": outputs["sem_seg"]["points"]}
    if density:
        maps["density"] = outputs["density"]["points"]
    for name, one in maps.items():
        if not torch.isfinite(one).all():
            raise ValueError(
                f"{name} of slice {task.z} is not finite: the weights are damaged, or diverged in training"
            )
    return {name: (255 * one.clamp(0, 1)).round().to(torch.uint8).cpu().numpy() for name, one in maps.items()}


def _try_to_read(task: SliceTask) -> Any:
    try:
        return read_image(dict(task.entry))
    except VolumeError as error:
        return error


def _write(group: Any, z: int, maps: Mapping[str, np.ndarray]) -> None:
    for name, one in maps.items():
        group[name][z] = one


def _written(z: int, writing: Future[None]) -> tuple[int, None]:
    writing.result()
    return z, None


@lru_cache(maxsize=1)
def _load(network: Network) -> tuple[Any, PromptDAS]:
    cfg, model = load_model(network.weights, network.config_file, network.opts)
    return cfg, model.to(device_of_worker(cfg.MODEL.DEVICE))


def _predict(
    work: Workspace,
    tasks: Sequence[SliceTask],
    function: Callable[..., Iterator[tuple[int, str | None]]],
    executor: Executor,
    on_error: str,
    progress: bool,
) -> dict[int, str]:
    """Predict what is not done yet -> why slices were skipped, by index, in order."""
    done = {note["slice"] for note in work.notes if "slice" in note}
    todo = [task for task in tasks if task.z not in done]
    if done:
        logger.info("%s: %d of %d slices were done before", work.output, len(done), len(tasks))
    skipped = {}
    with _Bar("Predicting", len(tasks), len(done), progress) as bar:
        if executor is run_here:  # others cannot tell how far a slice is
            function = partial(function, progress=bar.within_slice)
        for z, problem in executor(function, todo):
            bar.slice_done()
            if problem is None:
                work.note(slice=z)
            elif on_error == "stop":
                raise VolumeError(problem)
            else:
                logger.warning("skipped: %s", problem)
                skipped[z] = problem
    return dict(sorted(skipped.items()))


class _Bar:
    """A progress bar that counts slices, and shows how far the one in work is."""

    def __init__(self, what: str, total: int, done: int, shown: bool) -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} slices, {elapsed} so far, {remaining} left"
        self._bar = tqdm(total=total, initial=done, desc=what, bar_format=form, disable=not shown)
        self._done = float(done)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def within_slice(self, windows: int, total: int) -> None:
        self._bar.update(self._done + min(windows / total, 0.99) - self._bar.n)

    def slice_done(self, count: int = 1) -> None:
        self._done += count
        self._bar.update(self._done - self._bar.n)


# ---- instances


def label_instances(
    group: Any,
    voxel_size: VoxelSize | None,
    linked: bool,
    threshold: float,
    min_size: int,
    progress: bool = True,
) -> Components:
    """Turn the stored probability into stored instance ids, see :mod:`prompt_das.inference.linking`.

    ``group`` is a Zarr group as `prompt_das.data.writers.create_ome_zarr` makes it. Memory is bounded by the size of a
    block. Both passes over the volume are repeated if the process is killed: they
    take seconds where the network takes minutes.
    """
    probability = group["probability"]
    shape = probability.shape
    lowest = math.floor(255 * threshold) + 1
    blocks = split_into_blocks(shape, linked=linked)
    measured = []
    with _Bar("Finding instances", shape[0], 0, progress) as bar:
        for block in blocks:
            stored = _read_block(probability, block)
            measured.append(measure_block(stored >= lowest, stored, block))
            bar.slice_done(block.stop - block.start)
    ids, instances = link_blocks(measured, min_size)
    labels = add_instances(group, shape, len(instances), voxel_size)
    with _Bar("Writing instances", shape[0], 0, progress) as bar:
        for block, id_of in zip(blocks, ids, strict=True):
            in_block, _ = label_block(_read_block(probability, block) >= lowest)
            id_of = id_of.astype(labels.dtype)
            for z in range(block.start, block.stop):
                labels[z] = id_of[in_block[z - block.start]]
                bar.slice_done()
    return instances


def _read_block(array: zarr.Array, block: Block) -> np.ndarray:
    return np.asarray(array[block.start : block.end])


def write_table(path: str | Path, instances: Components, linked: bool, voxel_size: VoxelSize | None) -> None:
    """One row for each instance: id, centre, bounding box (half open), size, mean probability.

    Centre and box count pixels as napari does: the centre of the first one is 0. With the columns z, y, x, the file can
    be read as points. Sizes are also in micrometres, if the voxel size is known.
    """
    low, high, centre = instances.low, instances.high, instances.centroid
    columns: dict[str, Any] = {"id": np.arange(1, len(instances) + 1)}
    columns |= {axis: centre[:, i].round(3) for i, axis in enumerate("zyx")}
    for i, axis in enumerate("zyx"):
        if linked or axis != "z":
            columns |= {f"{axis}_start": low[:, i], f"{axis}_stop": high[:, i]}
    if not linked:
        columns["z"] = low[:, 0]
    columns["voxels" if linked else "pixels"] = instances.size
    if voxel_size is not None:
        z, y, x = (size / 1000 for size in voxel_size)
        physical = instances.size * (z * y * x if linked else y * x)
        columns["volume_um3" if linked else "area_um2"] = np.array([f"{size:.6g}" for size in physical])
    columns["mean_probability"] = (instances.probability / 255).round(4)
    with whole_file(path) as part, open(part, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))


# ---- results


def _kind_of(output: Path) -> str:
    suffix = output.suffix.lower()
    kinds = {".zarr": "zarr", **dict.fromkeys(HDF5_SUFFIXES, "hdf5"), **dict.fromkeys(TIFF_SUFFIXES, "tiff")}
    if suffix not in kinds:
        raise ValueError(f"{output}: '{suffix}' is not a format that is written; use {', '.join(kinds)}")
    return kinds[suffix]


def _export(
    folder: Path,
    group: Any,
    output: Path,
    kind: str,
    maps: Sequence[str],
    voxel_size: VoxelSize | None,
    progress: bool,
) -> dict[str, Path]:
    """Write the result in its format into the folder -> where its files belong."""
    if kind == "zarr":
        return {STORE: output}
    arrays = {**{name: group[name] for name in maps}, "labels": group[INSTANCES]}
    slices = group["probability"].shape[0]
    with _Bar(f"Writing {output.name}", slices * len(arrays), 0, progress) as bar:
        if kind == "hdf5":
            write_hdf5(folder / "result", arrays, voxel_size, group.attrs["prompt_das"], bar.slice_done)
            return {"result": output}
        for name, array in arrays.items():
            write_tiff(folder / name, array, voxel_size, bar.slice_done)
    beside = {name: output.with_name(f"{output.stem}_{name}{output.suffix}") for name in maps}
    return {**beside, "labels": output}


def _read_prompts(path: str | Path | None, entries: Sequence[dict[str, Any]]) -> SlicePoints:
    if path is None:
        return {}
    volume = open_image_volume(entries[0])
    depth, height, width = volume.shape
    prompts = read_points(path, volume.slice_names, num_slices=depth, size=(height, width))
    there = {entry["slice"] for entry in entries}
    return {z: points for z, points in prompts.items() if z in there and len(points)}


def _digest(prompts: SlicePoints) -> str:
    text = repr([(z, prompts[z].tolist()) for z in sorted(prompts)])
    return _sha256(text.encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _network_settings(cfg: Any) -> str:
    """What of a config decides about a prediction."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
    return cfg.MODEL.dump() + cfg.INPUT.dump() + cfg.TEST.WINDOW.dump()
