"""Loaders: a source and a target stream side by side for training, whole slices for evaluation.

Sample ``n`` of a stream is a pure function of (seed, n): which slice, which crop, which augmentation. Iteration ``i``
takes samples ``i * batch ... (i + 1) * batch - 1``, split over the ranks. So the data of a run depend neither on
the number of workers nor of processes, and a run that was stopped continues with the sample it would have had next.
The same holds for the slice that takes the place of one that cannot be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from prompt_das.config.schedule import adaptation_start, num_iterations
from prompt_das.data.corrupt_slices import SKIPPED, CorruptSlices, require_at_most
from prompt_das.data.dataset_mapper import SliceMapper, SourceMapper, TargetMapper
from prompt_das.data.datasets import ensure_registered
from prompt_das.data.samples import SourceSample, TargetSample
from prompt_das.data.slices import open_image_volume, read_labels
from prompt_das.data.workers import MonitoredDataLoader
from prompt_das.volumes.point_files import (
    SlicePoints,
    read_points,
    read_provenance,
    sample_dataset_points,
    write_points,
)
from prompt_das.volumes.volume import VolumeError

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import build_detection_test_loader as d2_build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger(__name__)


def get_slices(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The dataset dicts of all slices of the named datasets."""
    ensure_registered(names)
    slices = [dataset_dict for name in names for dataset_dict in DatasetCatalog.get(name)]
    if not slices:
        raise ValueError(f"the datasets {list(names)} have no slices; check DATASETS in the config")
    return slices


class SampleStream(Dataset):
    """Endless random samples of some slices: ``stream[n]`` is ``mapper(slice, generator seeded by n)``.

    If the slice cannot be read, another one takes its place, and the sample names it under the key ``SKIPPED``. Nothing
    is remembered from one sample to the next: they may come in any order and in any process.

    Raises:
        VolumeError: more than ``max_corrupt`` slices could not be read for one sample, or none can.
    """

    def __init__(
        self, slices: list[dict[str, Any]], mapper: Callable, seed: tuple[int, ...], max_corrupt: int = 0
    ) -> None:
        self.slices = slices
        self.mapper = mapper
        self.seed = seed
        self.max_corrupt = max_corrupt

    def __getitem__(self, n: int) -> dict[str, Any]:
        corrupt: dict[str, str] = {}
        for dataset_dict in self.candidates(n):
            try:
                sample = self.mapper(dataset_dict, np.random.default_rng([*self.seed, 1, n]))
            except VolumeError as error:
                corrupt[dataset_dict["image_id"]] = str(error)
                require_at_most(corrupt, self.max_corrupt)
            else:
                return {**sample, SKIPPED: corrupt} if corrupt else sample
        raise VolumeError(f"not one of {len(self.slices)} slices can be read: {next(iter(corrupt.values()))}")

    def candidates(self, n: int) -> Iterator[dict[str, Any]]:
        """The slice of sample n, then all others in the order in which they would take its place."""
        epoch, position = divmod(n, len(self.slices))
        chosen = np.random.default_rng([*self.seed, 0, epoch]).permutation(len(self.slices))[position]
        yield self.slices[chosen]
        others = np.random.default_rng([*self.seed, 2, n]).permutation(len(self.slices))
        yield from (self.slices[i] for i in others if i != chosen)


class IterationBatches:
    """Batch sampler: the sample numbers of this rank, iteration after iteration, from ``start_iter`` on."""

    def __init__(self, batch_size: int, start_iter: int, max_iter: int) -> None:
        world_size = comm.get_world_size()
        if batch_size % world_size:
            raise ValueError(
                f"a batch of {batch_size} images cannot be split over {world_size} processes; make "
                "SOLVER.IMS_PER_BATCH and DATALOADER.TARGET_IMS_PER_BATCH multiples of the number of processes"
            )
        self.batch_size = batch_size
        self.per_rank = batch_size // world_size
        self.iterations = range(start_iter, max_iter)

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[list[int]]:
        for i in self.iterations:
            first = i * self.batch_size + comm.get_rank() * self.per_rank
            yield list(range(first, first + self.per_rank))


def build_stream_loader(
    slices: list[dict[str, Any]],
    mapper: Callable,
    *,
    batch_size: int,
    start_iter: int,
    max_iter: int,
    seed: tuple[int, ...],
    workers: int,
    max_corrupt: int = 0,
) -> MonitoredDataLoader:
    """A loader of lists of samples, one list per iteration."""
    loader = DataLoader(
        SampleStream(slices, mapper, seed, max_corrupt),
        batch_sampler=IterationBatches(batch_size, start_iter, max_iter),
        num_workers=workers,
        collate_fn=list,
        persistent_workers=False,
        pin_memory=torch.cuda.is_available(),  # from there a GPU copies while it works
        generator=torch.Generator(),  # else each start, and so each resume, would draw from the run's random numbers
    )
    return MonitoredDataLoader(loader)


class SourceTargetLoader:
    """Yields ``(source samples, target samples)`` per iteration; during burn-in the target samples are empty.

    Nothing is opened before the first batch: set ``start_iter`` until then to continue a run. The target stream opens
    when burn-in ends, and calls ``get_sparse_points`` then: the unsupervised mode makes the points only there.

    Raises:
        VolumeError: together with those in ``corrupt``, too many slices could not be read.
    """

    def __init__(
        self,
        cfg: CfgNode,
        get_sparse_points: Callable[[], dict[str, SlicePoints]],
        corrupt: CorruptSlices | None = None,
    ) -> None:
        self.cfg = cfg
        self.start_iter = 0
        self.get_sparse_points = get_sparse_points
        self.corrupt = corrupt or CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES)

    def __iter__(self) -> Iterator[tuple[list[SourceSample], list[TargetSample]]]:
        cfg = self.cfg
        max_iter, adapt_from = num_iterations(cfg), adaptation_start(cfg)
        common = {
            "max_iter": max_iter,
            "workers": cfg.DATALOADER.NUM_WORKERS,
            "max_corrupt": cfg.DATALOADER.MAX_CORRUPT_SLICES,
        }
        seed = max(cfg.SEED, 0)
        source = iter(
            build_stream_loader(
                get_slices(cfg.DATASETS.TRAIN),
                SourceMapper(cfg),
                batch_size=cfg.SOLVER.IMS_PER_BATCH,
                start_iter=self.start_iter,
                seed=(seed, 0),
                **common,
            )
        )
        for _ in range(self.start_iter, adapt_from):
            yield cast(list[SourceSample], self.corrupt.pop_skipped(next(source))), []
        first = max(self.start_iter, adapt_from)
        if first >= max_iter:
            return
        target = build_stream_loader(
            get_slices(cfg.DATASETS.TARGET),
            TargetMapper(cfg, self.get_sparse_points()),
            batch_size=cfg.DATALOADER.TARGET_IMS_PER_BATCH,
            start_iter=first,
            seed=(seed, 1),
            **common,
        )
        for batches in zip(source, target, strict=True):
            source_batch, target_batch = map(self.corrupt.pop_skipped, batches)
            yield cast(list[SourceSample], source_batch), cast(list[TargetSample], target_batch)


def get_sparse_points(cfg: CfgNode, corrupt: CorruptSlices | None = None) -> dict[str, SlicePoints]:
    """The sparse points of every target dataset, for the weakly supervised mode.

    They come from ``DATASETS.SPARSE_POINTS.FILE``, else from the points that the dataset was registered with, else
    they are drawn from its labels once and kept in ``OUTPUT_DIR``, where every later run of the folder reads them.
    Slices whose labels cannot be read get none, as far as ``DATALOADER.MAX_CORRUPT_SLICES`` allows for them.
    """
    node = cfg.DATASETS.SPARSE_POINTS
    corrupt = corrupt or CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES)
    points = {}
    if node.FILE and len(cfg.DATASETS.TARGET) > 1:
        raise ValueError(
            f"DATASETS.SPARSE_POINTS.FILE {node.FILE} is of one volume, but DATASETS.TARGET names several; "
            "describe each volume with its own points in YAML instead"
        )
    ensure_registered(cfg.DATASETS.TARGET)
    for name in cfg.DATASETS.TARGET:
        slices = DatasetCatalog.get(name)
        kept = Path(cfg.OUTPUT_DIR) / f"sparse_points_{name}.json"
        file = node.FILE or MetadataCatalog.get(name).get("points") or kept
        if file is kept and kept.exists():
            require_same_source(kept, dataset=name, ratio=node.RATIO, seed=node.SEED)
        elif file is kept and comm.is_main_process():
            if slices[0]["label_file_name"] is None:
                raise ValueError(
                    f"{name} has neither points nor labels to draw them from; set DATASETS.SPARSE_POINTS.FILE, "
                    "or RATIO 0 for the unsupervised mode"
                )
            labeled = ({**dataset_dict, "labels": labels} for dataset_dict, labels in corrupt.read(slices, read_labels))
            drawn = sample_dataset_points(labeled, node.RATIO, node.SEED, itemgetter("labels"))
            write_points(kept, drawn, dataset=name, ratio=node.RATIO, seed=node.SEED)
        comm.synchronize()
        volume = open_image_volume(slices[0])
        depth, height, width = volume.shape
        points[name] = read_points(file, volume.slice_names, num_slices=depth, size=(height, width))
        number = sum(len(points[name].get(dataset_dict["slice"], ())) for dataset_dict in slices)
        logger.info("%s: %d sparse points on %d slices, from %s", name, number, len(slices), file)
    return points


def require_same_source(path: Path, **settings: Any) -> None:
    """Raise ValueError if the points in ``path`` were drawn with another ``dataset``, ``ratio`` or ``seed``."""
    stored = read_provenance(path)
    changes = [
        f"{key} {stored[key]!r}, not {value!r}" for key, value in settings.items() if stored.get(key, value) != value
    ]
    if changes:
        raise ValueError(
            f"{path} holds sparse points that were drawn with {', '.join(changes)} as DATASETS.SPARSE_POINTS has "
            "it now; set that back, remove the file, or use another OUTPUT_DIR"
        )


def build_test_loader(cfg: CfgNode, name: str) -> MonitoredDataLoader:
    """Whole slices of a labelled dataset, one at a time."""
    slices = get_slices((name,))
    if any(dataset_dict["label_file_name"] is None for dataset_dict in slices):
        raise ValueError(
            f"{name} has no labels, so it cannot be evaluated; use `prompt-das predict` for unlabelled volumes"
        )
    loader = d2_build_detection_test_loader(
        dataset=slices, mapper=SliceMapper(cfg), num_workers=min(cfg.DATALOADER.NUM_WORKERS, len(slices))
    )
    return MonitoredDataLoader(loader)
