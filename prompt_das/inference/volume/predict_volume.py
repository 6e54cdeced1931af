"""Prediction of whole volumes, out of core, in three steps that can each be stopped and repeated:

1. The network predicts slice by slice, here or on a cluster: foreground probability and density of center points.
2. The foreground becomes instances, of slices or of the volume, block by block, by the same workers.
3. The result gets its name, if need be as a copy in another format, and a table of the instances.

Shapes: Z, H, W slices, height and width of the volume, in voxels. A point is (x, y) in pixels of its slice, the center
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

from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.config.plugins import import_plugins
from prompt_das.data.physical_scale import warn_of_size
from prompt_das.inference.volume.block_labels import InstanceRule
from prompt_das.inference.volume.center_instances import CenterRule
from prompt_das.inference.volume.executors import AT_ONCE, Executor, run_here
from prompt_das.inference.volume.export import export
from prompt_das.inference.volume.found_instances import FoundInstances
from prompt_das.inference.volume.instances import label_instances
from prompt_das.inference.volume.output_files import DEFAULT_OME_VERSION, OutputFiles
from prompt_das.inference.volume.progress import Progress, SliceBar
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.inference.volume.slice_prediction import (
    Network,
    SliceResult,
    load_network,
    predict_slices,
)
from prompt_das.inference.volume.slice_tasks import SliceTask, with_neighbors
from prompt_das.inference.volume.source import OpenedSource, VolumeSource
from prompt_das.inference.volume.store import STORE, StoreLayout, intact_slices, prepare_store
from prompt_das.inference.volume.table import Columns, is_parquet, join_columns, table_columns, write_table
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.ops.depth_average import depth_weights
from prompt_das.utils.natural_sort import number_step
from prompt_das.volumes.ome_zarr import MOST_DESCRIBED, NO_OFFSET
from prompt_das.volumes.point_files import SlicePoints
from prompt_das.volumes.region import Region
from prompt_das.volumes.volume import VolumeError

import numpy as np
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

NO_POINTS = np.zeros((0, 2), np.float32)
TABLE = "table"  # in the folder of the job
ENOUGH = 100_000  # instances, to tell a typical size


@dataclass(frozen=True)
class Result:
    """What came of a prediction.

    Attributes:
        count: of the instances; their ids are 1 ... count.
        skipped: why slices were skipped, by their index in the result.
        region: of the volume that was predicted, where it was not all of it.
    """

    count: int
    skipped: dict[int, str]
    region: Region | None = None


def predict_volume(
    weights: str | Path,
    source: VolumeSource | str | Path,
    output: str | Path,
    settings: VolumeSettings | None = None,
    *,
    table: str | Path | None = None,
    ome_version: str = DEFAULT_OME_VERSION,
    overwrite: bool = False,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    executor: Executor = run_here,
    progress: Progress = True,
) -> Result | None:
    """Predict a volume. Killed at any moment and called again with equal arguments, it goes on where it was.

    Args:
        weights, config_file, opts, plugins: the network, see :func:`prompt_das.modeling.load.load_model`.
        source: what is read; a path alone is a volume without prompts but those of its description.
        output: ``*.zarr`` (all maps and the labels), ``*.h5`` (the same) or ``*.tif`` (the labels; the maps go beside
            them, to ``*_probability.tif`` and ``*_density.tif``).
        settings: how instances are made.
        table: CSV file, or Parquet by its ending, with one row for each instance, see
            :func:`prompt_das.inference.volume.table.table_columns`.
        ome_version: of an OME-Zarr, "0.4" or "0.5", see :mod:`prompt_das.volumes.ome_zarr`.
        overwrite: replace results that are there, and an unfinished job of other settings.
        executor: where slices and blocks are worked on, see :mod:`prompt_das.inference.volume.executors`.
        progress: show bars with the time that is left; or a function, see
            :data:`prompt_das.inference.volume.progress.Progress`.

    Returns:
        None if the result was complete already.

    Raises:
        FileExistsError: there is a result already, or an unfinished one of other settings or inputs.
        FileNotFoundError: no weights, config, volume or points.
        VolumeError: a slice cannot be read.
        RemoteError: the server of an address does not answer, or the data there are gone; what was done is kept.
        ValueError: an argument, the weights or the points make no sense, or the network needs a voxel size that is not
            known; the message says which.
        OSError: the disk is full, for example; what was done is kept.
    """
    settings = settings or VolumeSettings()
    files = OutputFiles.plan(output, settings.maps, table, ome_version)
    network, network_files, digests = _find_network(weights, config_file, opts, plugins)
    cfg, _ = load_network(network)  # also where others predict: to fail early
    source = source if isinstance(source, VolumeSource) else VolumeSource(source)
    opened = source.open()
    scale = source.scale(cfg, opened.voxel_size)
    files.check([*network_files, *opened.paths])
    min_size = cfg.TEST.MIN_INSTANCE_SIZE if settings.min_size is None else settings.min_size
    centers = _center_rule(cfg, settings, opened)
    weights_in_depth = _depth_weights(cfg, opened)
    provenance = {
        "image": {
            "path": opened.slices[0]["file_name"],
            "dataset": opened.slices[0]["image_dataset"],
            "slices": opened.shape[0],
        },
        **({} if opened.region is None else {"region": opened.region._asdict()}),
        "intensity_range": opened.slices[0]["intensity_range"],
        "weights": {"name": Path(network.weights).name, "sha256": digests[0]},
        "network": _sha256(_network_settings(cfg).encode()),
        "window": {"size": cfg.INPUT.CROP_SIZE, "scale": scale, **dict(cfg.TEST.WINDOW)},
        "depth_weights": weights_in_depth.round(4).tolist(),
        "prompts": sum(map(len, opened.prompts.values())),
        "instances": "volume" if settings.linked else "slice",
        "threshold": settings.threshold,
        "min_size": min_size,
        **({} if centers is None else {"centers": {"threshold": centers.peak_threshold, "kernel": centers.kernel}}),
    }
    job = {
        **provenance,
        "format": files.format,
        "ome_version": files.ome_version,
        "maps": settings.maps,
        "voxel_size": opened.voxel_size,
        "prompts": _digest(opened.prompts),
        "shape": opened.shape,
        **opened.fingerprint,
    }
    origin = NO_OFFSET if opened.region is None else opened.region.origin
    layout = StoreLayout(opened.shape, settings.maps, opened.voxel_size, provenance, files.ome_version, origin)
    rule = InstanceRule(settings.threshold, min_size, settings.linked, centers)
    with Workspace(files.output, job, beside=files.paths[1:], overwrite=overwrite) as work:
        if work.finished:
            return None
        group = prepare_store(work, layout)
        predict = partial(predict_slices, network, str(work.folder / STORE), settings.density, weights_in_depth)
        tasks = with_neighbors(_tasks(opened, scale), len(weights_in_depth) - 1)
        skipped = _predict(work, group, tasks, settings, predict, executor, progress)
        found = label_instances(work, layout, rule, executor, progress=progress)
        warn_of_size(cfg, _some_cross_sections(found), scale, str(opened.location))
        group.attrs["prompt_das"] = {
            **provenance,
            "count": len(found),
            "skipped": {str(z): problem for z, problem in skipped.items()},
        }

        def columns() -> Iterator[Columns]:
            return (table_columns(some.moved(origin), settings.linked, opened.voxel_size) for some in found)

        described = join_columns(columns()) if len(found) <= MOST_DESCRIBED else {}
        results = export(work.folder, group, layout, files, described, executor, progress)
        if files.table is not None:
            write_table(work.folder / TABLE, columns(), is_parquet(files.table))
            results[TABLE] = files.table
        work.finish(results)
    return Result(len(found), skipped, opened.region)


def _some_cross_sections(found: FoundInstances) -> np.ndarray:
    """(n,) mean areas in the slices of the first instances, ``ENOUGH`` of them if there are as many."""
    areas: list[np.ndarray] = [np.zeros(0)]
    for some in found:
        areas.append(some.components.cross_section)
        if sum(map(len, areas)) >= ENOUGH:
            break
    return np.concatenate(areas)


def _center_rule(cfg: CfgNode, settings: VolumeSettings, opened: OpenedSource) -> CenterRule | None:
    """How slices are split at centers; None where instances are components."""
    if not settings.from_centers(cfg.TEST.INSTANCES):
        return None
    peaks = cfg.DOMAIN_ADAPT.POINTS
    clicks = {
        z: opened.prompts[dataset_dict["slice"]]
        for z, dataset_dict in enumerate(opened.slices)
        if dataset_dict["slice"] in opened.prompts
    }
    return CenterRule(settings.threshold, float(peaks.THRESHOLD), int(peaks.KERNEL), clicks)


def _find_network(
    weights: str | Path, config_file: str | Path | None, opts: Sequence[str], plugins: Sequence[str | Path]
) -> tuple[Network, list[Path], list[str]]:
    """The network, its files, and their SHA-256."""
    weights = find_weights(weights)
    config = Path(config_file) if config_file else weights.with_name("config.yaml")
    paths = [path for path in (weights, config) if path.is_file()]
    digests = [_sha256(path.read_bytes()) for path in paths]
    network = Network(
        str(weights),
        str(config_file) if config_file else None,
        tuple(opts),
        import_plugins(plugins),  # absolute paths: workers have working directories of their own
        "".join(digests),
    )
    return network, paths, digests


def _depth_weights(cfg: CfgNode, opened: OpenedSource) -> np.ndarray:
    """How much the neighbors of a slice count, see :func:`depth_weights`; [1]: a slice is alone."""
    sigma = cfg.TEST.DEPTH_SIGMA
    if not sigma or opened.shape[0] == 1:
        return np.ones(1)
    if opened.voxel_size is None:
        logger.info("%s: how far slices are apart is not known, so each is predicted alone", opened.location)
        return np.ones(1)
    distance = opened.voxel_size[0]
    weights = depth_weights(sigma, distance)
    if len(weights) > 1:
        neighbors = len(weights) - 1
        logger.info("averaging each slice with %d on either side (TEST.DEPTH_SIGMA %g)", neighbors, sigma)
        step = number_step(opened.slice_names)
        if step > 1:
            logger.warning(
                "%s: the names of its slices count in steps of %d. If the slices between them are left out, they are "
                "not %g nm apart, and their average makes things worse: give their distance as --voxel-size Z Y X, or "
                "TEST.DEPTH_SIGMA 0",
                opened.location, step, distance,
            )  # fmt: skip
    return weights


def _tasks(opened: OpenedSource, scale: float) -> list[SliceTask]:
    prompts = opened.prompts
    return [
        SliceTask(z, dataset_dict, prompts.get(dataset_dict["slice"], NO_POINTS), scale)
        for z, dataset_dict in enumerate(opened.slices)
    ]


def _predict(
    work: Workspace,
    group: Any,
    tasks: Sequence[SliceTask],
    settings: VolumeSettings,
    function: Callable[..., Iterator[SliceResult]],
    executor: Executor,
    progress: Progress,
) -> dict[int, str]:
    """Predict what is not done yet -> why slices were skipped, by index, in order."""
    done = intact_slices(work, group, settings.maps, executor)
    if done:
        logger.info("%s: %d of %d slices were done before", work.output, len(done), len(tasks))
    todo = [task for task in tasks if task.z not in done]
    # A worker predicts the neighbors of its slices, too: the more slices it has, the fewer of them are predicted twice.
    at_once = AT_ONCE + 4 * max(len(task.neighbors) for task in tasks)
    skipped = {}
    with SliceBar("Predicting", len(tasks), len(done), progress) as bar:
        if executor is run_here:  # others do not report the progress within a slice
            function = partial(function, progress=bar.within_slice)
        for z, receipt, problem in executor(function, todo, at_once=at_once):
            if problem is None:
                work.log(slice=z, receipt=receipt)
            elif settings.on_error == "stop":
                raise VolumeError(problem)
            else:
                logger.warning("skipped: %s", problem)
                skipped[z] = problem
            bar.slice_done()  # after it is noted as done: a report of the progress may raise
    return dict(sorted(skipped.items()))


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
    rules = f"{cfg.TEST.MIN_CONFIDENCE} {cfg.TEST.CLICK_REACH}"
    return cfg.MODEL.dump() + cfg.INPUT.dump() + cfg.TEST.WINDOW.dump() + rules
