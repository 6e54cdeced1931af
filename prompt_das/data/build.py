"""Loaders: a source and a target stream side by side for training, whole slices for evaluation.

Sample ``n`` of a stream is a pure function of (seed, n): which slice, which crop, which augmentation. Iteration ``i``
takes samples ``i * batch ... (i + 1) * batch - 1``, split over the ranks. So the data of a run depend neither on
the number of workers nor of processes, and a run that was stopped continues with the sample it would have had next.
The same holds for the slice that takes the place of one that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import Any, cast

from prompt_das.config.schedule import adaptation_start, num_iterations
from prompt_das.data.corrupt_slices import SKIPPED, CorruptSlices, require_at_most
from prompt_das.data.dataset_mapper import SliceMapper, SourceMapper, TargetMapper
from prompt_das.data.datasets import ensure_registered
from prompt_das.data.samples import SourceSample, TargetSample
from prompt_das.data.sparse_points import get_negative_clicks
from prompt_das.data.workers import MonitoredDataLoader
from prompt_das.volumes.point_files import SlicePoints
from prompt_das.volumes.volume import VolumeError

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.data import build_detection_test_loader as d2_build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

OpenStream = Callable[[int], Iterable[list[dict[str, Any]]]]


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
    when burn-in ends.

    Raises:
        VolumeError: together with those in ``corrupt``, too many slices could not be read.
    """

    @configurable
    def __init__(
        self,
        *,
        open_source: OpenStream | None,
        open_target: OpenStream,
        max_iter: int,
        adapt_from: int,
        corrupt: CorruptSlices,
    ) -> None:
        """
        Args:
            open_source, open_target: from the first iteration to the batches of that one and all later ones. Without
                a source, the source samples are always empty.
            adapt_from: the first iteration with target samples.
        """
        self.start_iter = 0
        self.open_source = open_source
        self.open_target = open_target
        self.max_iter = max_iter
        self.adapt_from = adapt_from
        self.corrupt = corrupt

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        get_sparse_points: Callable[[], dict[str, SlicePoints]],
        corrupt: CorruptSlices | None = None,
    ) -> dict[str, Any]:
        """``get_sparse_points`` is called when the target stream opens: the unsupervised mode makes them only there."""
        max_iter, seed = num_iterations(cfg), max(cfg.SEED, 0)
        build = partial(
            build_stream_loader,
            max_iter=max_iter,
            workers=cfg.DATALOADER.NUM_WORKERS,
            max_corrupt=cfg.DATALOADER.MAX_CORRUPT_SLICES,
        )

        def open_source(start_iter: int) -> MonitoredDataLoader:
            return build(
                get_slices(cfg.DATASETS.TRAIN),
                SourceMapper(cfg),
                batch_size=cfg.SOLVER.IMS_PER_BATCH,
                start_iter=start_iter,
                seed=(seed, 0),
            )

        def open_target(start_iter: int) -> MonitoredDataLoader:
            return build(
                get_slices(cfg.DATASETS.TARGET),
                TargetMapper(cfg, get_sparse_points(), get_negative_clicks(cfg)),
                batch_size=cfg.DATALOADER.TARGET_IMS_PER_BATCH,
                start_iter=start_iter,
                seed=(seed, 1),
            )

        return {
            "open_source": open_source if cfg.DATASETS.TRAIN else None,
            "open_target": open_target,
            "max_iter": max_iter,
            "adapt_from": adaptation_start(cfg),
            "corrupt": corrupt or CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES),
        }

    def __iter__(self) -> Iterator[tuple[list[SourceSample], list[TargetSample]]]:
        if self.open_source is None:
            source: Iterator[list[dict[str, Any]]] = repeat([], self.max_iter - self.start_iter)
        else:
            source = iter(self.open_source(self.start_iter))
        for _ in range(self.start_iter, self.adapt_from):
            yield cast(list[SourceSample], self.corrupt.pop_skipped(next(source))), []
        first = max(self.start_iter, self.adapt_from)
        if first >= self.max_iter:
            return
        for batches in zip(source, self.open_target(first), strict=True):
            source_batch, target_batch = map(self.corrupt.pop_skipped, batches)
            yield cast(list[SourceSample], source_batch), cast(list[TargetSample], target_batch)


def _test_loader_from_config(cfg: CfgNode, name: str) -> dict[str, Any]:
    return {"name": name, "mapper": SliceMapper(cfg), "workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_loader_from_config)
def build_test_loader(*, name: str, mapper: Callable, workers: int) -> MonitoredDataLoader:
    """Whole slices of a labeled dataset, one at a time. Also called as ``build_test_loader(cfg, name)``."""
    slices = get_slices((name,))
    if any(dataset_dict["label_file_name"] is None for dataset_dict in slices):
        raise ValueError(
            f"{name} has no labels, so it cannot be evaluated; use `prompt-das predict` for unlabeled volumes"
        )
    loader = d2_build_detection_test_loader(dataset=slices, mapper=mapper, num_workers=min(workers, len(slices)))
    return MonitoredDataLoader(loader)
