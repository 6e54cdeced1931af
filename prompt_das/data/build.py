"""Loaders: a source and a target stream side by side for training, whole slices for evaluation.

Sample ``n`` of a stream is a pure function of (seed, n): which slice, which crop, which augmentation. Iteration ``i``
takes samples ``i * batch ... (i + 1) * batch - 1``, shared out over the ranks. So the data of a run depend neither on
the number of workers nor of processes, and a run that was stopped continues with the sample it would have had next.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import build_detection_test_loader as d2_build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from .dataset_mapper import SliceMapper, SourceMapper, TargetMapper
from .datasets import ensure_registered
from .point_labels import SlicePoints, read_points, sample_dataset_points, write_points
from .slices import open_image_volume, read_labels

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


def get_slices(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The dataset dicts of all slices of the named datasets."""
    ensure_registered(names)
    slices = [d for name in names for d in DatasetCatalog.get(name)]
    if not slices:
        raise ValueError(f"the datasets {list(names)} have no slices; check DATASETS in the config")
    return slices


class SampleStream(Dataset):
    """Endless random samples of some slices: ``stream[n]`` is ``mapper(slice, generator seeded by n)``."""

    def __init__(self, slices: list[dict[str, Any]], mapper: Callable, seed: tuple[int, ...]) -> None:
        self.slices = slices
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, n: int) -> dict[str, Any]:
        epoch, position = divmod(n, len(self.slices))
        order = np.random.default_rng([*self.seed, 0, epoch]).permutation(len(self.slices))
        return self.mapper(self.slices[order[position]], np.random.default_rng([*self.seed, 1, n]))


class IterationBatches:
    """Batch sampler: the sample numbers of this rank, iteration after iteration, from ``start_iter`` on."""

    def __init__(self, batch_size: int, start_iter: int, max_iter: int) -> None:
        world_size = comm.get_world_size()
        if batch_size % world_size:
            raise ValueError(
                f"a batch of {batch_size} images cannot be shared by {world_size} processes; make SOLVER.IMS_PER_BATCH "
                "and DATALOADER.TARGET_IMS_PER_BATCH multiples of the number of processes"
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


def live_as_long_as_the_parent(worker: int) -> None:
    """A loader's processes end with the one that they work for, neither before it nor long after.

    A cluster or a terminal signals them too, and a training step whose workers are gone cannot end in good order. When
    the parent was killed, a worker of torch may wait for ever: its results have filled a pipe that nobody reads.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it died before
            os._exit(1)


def kill_workers() -> None:
    """At its exit Python asks the loaders' processes to end by SIGTERM, which these ignore, and waits for them."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def with_lasting_workers(loader: DataLoader) -> DataLoader:
    """The loader, whose processes, when started, live as long as this one."""
    if loader.num_workers:
        loader.worker_init_fn = live_as_long_as_the_parent
        multiprocessing.util.Finalize(None, kill_workers, exitpriority=1)  # before Python asks and waits
    return loader


def build_stream_loader(
    slices: list[dict[str, Any]],
    mapper: Callable,
    *,
    batch_size: int,
    start_iter: int,
    max_iter: int,
    seed: tuple[int, ...],
    workers: int,
) -> DataLoader:
    """A loader of lists of samples, one list per iteration."""
    loader = DataLoader(
        SampleStream(slices, mapper, seed),
        batch_sampler=IterationBatches(batch_size, start_iter, max_iter),
        num_workers=workers,
        collate_fn=list,
        persistent_workers=False,
        generator=torch.Generator(),  # else each start, and so each resume, would draw from the run's random numbers
    )
    return with_lasting_workers(loader)


class SourceTargetLoader:
    """Yields ``(source samples, target samples)`` per iteration; during burn-in the target samples are empty.

    Nothing is opened before the first batch is asked for: set ``start_iter`` until then to continue a run. The target
    stream opens when burn-in ends, and asks ``get_sparse_points`` then: the unsupervised mode makes them only there.
    """

    def __init__(self, cfg: CfgNode, get_sparse_points: Callable[[], dict[str, SlicePoints]]) -> None:
        self.cfg = cfg
        self.start_iter = 0
        self.get_sparse_points = get_sparse_points

    def __iter__(self) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
        cfg = self.cfg
        max_iter = cfg.SOLVER.MAX_ITER
        adapt_from = cfg.DOMAIN_ADAPT.BURN_IN_ITERS if cfg.DOMAIN_ADAPT.ENABLED else max_iter
        common = {"max_iter": max_iter, "workers": cfg.DATALOADER.NUM_WORKERS}
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
            yield next(source), []
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
        yield from zip(source, target, strict=True)


def get_sparse_points(cfg: CfgNode) -> dict[str, SlicePoints]:
    """The sparse points of every target dataset, for the weakly supervised mode.

    They come from ``DATASETS.SPARSE_POINTS.FILE``, else from the points that the dataset was registered with, else
    they are drawn from its labels once and kept in ``OUTPUT_DIR``, where every later run of the folder finds them.
    """
    node = cfg.DATASETS.SPARSE_POINTS
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
        if file is kept and not kept.exists() and comm.is_main_process():
            if slices[0]["label_file_name"] is None:
                raise ValueError(
                    f"{name} has neither points nor labels to draw them from; set DATASETS.SPARSE_POINTS.FILE, "
                    "or RATIO 0 for the unsupervised mode"
                )
            drawn = sample_dataset_points(slices, node.RATIO, node.SEED, read_labels)
            write_points(kept, drawn, dataset=name, ratio=node.RATIO, seed=node.SEED)
        comm.synchronize()
        volume = open_image_volume(slices[0])
        depth, height, width = volume.shape
        points[name] = read_points(file, volume.slice_names, num_slices=depth, size=(height, width))
        number = sum(len(points[name].get(d["slice"], ())) for d in slices)
        logger.info("%s: %d sparse points on %d slices, from %s", name, number, len(slices), file)
    return points


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Whole slices of a labelled dataset, one at a time."""
    slices = get_slices((name,))
    if any(d["label_file_name"] is None for d in slices):
        raise ValueError(
            f"{name} has no labels, so it cannot be evaluated; use tools/predict.py for unlabelled volumes"
        )
    loader = d2_build_detection_test_loader(
        dataset=slices, mapper=SliceMapper(cfg), num_workers=min(cfg.DATALOADER.NUM_WORKERS, len(slices))
    )
    return with_lasting_workers(loader)
