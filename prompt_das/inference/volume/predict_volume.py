"""Prediction of whole volumes, out of core, in three steps that can each be stopped and repeated:

1. The network predicts slice by slice, here or on a cluster: foreground probability and density of centre points.
2. The foreground becomes instances, of slices or of the volume, block by block.
3. The result gets its name, if need be as a copy in another format, and a table of the instances.

Shapes: Z, H, W slices, height and width of the volume, in voxels. A point is (x, y) in pixels of its slice, the centre
of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import find_volume
from prompt_das.data.slices import open_image_volume
from prompt_das.inference.volume.executors import Executor, run_here
from prompt_das.inference.volume.instances import label_instances, write_table
from prompt_das.inference.volume.linking import Components
from prompt_das.inference.volume.progress import SliceBar
from prompt_das.inference.volume.slice_prediction import Network, SliceTask, load_network, predict_slices
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.volumes.open_volume import HDF5_SUFFIXES, TIFF_SUFFIXES
from prompt_das.volumes.point_files import SlicePoints, read_points
from prompt_das.volumes.volume import VolumeError
from prompt_das.volumes.writers import INSTANCES, VoxelSize, create_ome_zarr, write_hdf5, write_tiff

import numpy as np
import zarr

logger = logging.getLogger(__name__)

STORE = "volume.zarr"  # in the workspace
MAPS = ("probability", "density")
NO_POINTS = np.zeros((0, 2), np.float32)


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
        weights, config_file, opts: the network, see :func:`prompt_das.modeling.load.load_model`.
        volume, dataset, intensity_range, voxel_size: see :func:`prompt_das.data.datasets.find_volume`.
        output: ``*.zarr`` (all maps and the labels), ``*.h5`` (the same) or ``*.tif`` (the labels; the maps go beside
            them, to ``*_probability.tif`` and ``*_density.tif``).
        points: file of prompts, see :mod:`prompt_das.volumes.point_files`; by default those of the description.
        linked: 3-D instances (26 neighbours of a voxel); otherwise those of each slice (8 neighbours of a pixel).
        threshold: foreground is where the probability is above.
        min_size: instances of at most so many voxels are removed; by default ``TEST.MIN_INSTANCE_SIZE``.
        density: also predict the density of centre points. Without it, the time of the centre-point head is saved.
        table: CSV file with one row for each instance.
        on_error: "stop" at a slice that cannot be read, or "skip" it: it stays background, and the result names it.
        executor: where slices are predicted, see :mod:`prompt_das.inference.volume.executors`.
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
    digests = [_sha256(path.read_bytes()) for path in (weights, config) if path.is_file()]
    network = Network(str(weights), str(config_file) if config_file else None, tuple(opts), "".join(digests))
    cfg, _ = load_network(network)  # also where others predict: to fail early
    entries, spec = find_volume(volume, dataset=dataset, intensity_range=intensity_range, voxel_size=voxel_size)
    shape = (len(entries), entries[0]["height"], entries[0]["width"])
    points = points or spec.points
    prompts = _read_prompts(points, entries)
    min_size = cfg.TEST.MIN_INSTANCE_SIZE if min_size is None else min_size
    about = {
        "image": {"path": entries[0]["file_name"], "dataset": entries[0]["image_dataset"], "slices": shape[0]},
        "intensity_range": entries[0]["intensity_range"],
        "weights": {"name": weights.name, "sha256": digests[0]},
        "network": _sha256(_network_settings(cfg).encode()),
        "window": {"size": cfg.INPUT.CROP_SIZE, "scale": cfg.INPUT.SCALE, **dict(cfg.TEST.WINDOW)},
        "prompts": sum(map(len, prompts.values())),
        "instances": "volume" if linked else "slice",
        "threshold": threshold,
        "min_size": min_size,
    }
    names = MAPS[: 1 + density]
    settings = {
        **about,
        "format": kind,
        "maps": names,
        "voxel_size": spec.voxel_size,
        "prompts": _digest(prompts),
    }
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
    with SliceBar("Predicting", len(tasks), len(done), progress) as bar:
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
    with SliceBar(f"Writing {output.name}", slices * len(arrays), 0, progress) as bar:
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
