"""The OME-Zarr that a job fills, in the job's folder: made once, checked whenever the job goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.durable import Written, check_receipts, sync_tree
from prompt_das.inference.volume.executors import Executor
from prompt_das.inference.volume.linking import Block
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.utils.atomic_write import sync_folder
from prompt_das.volumes.ome_zarr import NO_OFFSET, Origin, add_instances, create_ome_zarr, finest
from prompt_das.volumes.voxel_size import VoxelSize

import zarr

logger = logging.getLogger(__name__)

STORE = "volume.zarr"  # in the folder of the job


@dataclass(frozen=True)
class StoreLayout:
    """The store of a job but for the values of its arrays, see :mod:`prompt_das.volumes.ome_zarr`.

    Attributes:
        shape: (Z, H, W).
        maps: names of the predicted maps.
        voxel_size, about, version, origin: see :func:`prompt_das.volumes.ome_zarr.create_ome_zarr`.
    """

    shape: tuple[int, int, int]
    maps: tuple[str, ...]
    voxel_size: VoxelSize | None
    about: dict[str, Any]
    version: str = "0.4"
    origin: Origin = NO_OFFSET

    def create(self, path: Path) -> Any:
        """Make the store of the maps, all zero."""
        return create_ome_zarr(
            path, self.shape, self.maps, self.voxel_size, self.about, version=self.version, origin=self.origin
        )

    def add_labels(self, group: Any, count: int) -> None:
        """Add labels, all zero, for ``count`` instances."""
        add_instances(group, self.shape, count, self.voxel_size, self.origin)


def prepare_store(work: Workspace, layout: StoreLayout) -> Any:
    """Make the store of a new job, or the metadata of one that goes on, and open it.

    Metadata are written once more at the end of a job. If that was interrupted, they may be half on the disk.
    """
    store = work.folder / STORE
    if not any("created" in line for line in work.journal):
        layout.create(store)
        sync_tree(store)
        work.log(created=True)
    else:
        _renew_metadata(store, layout.create)
    return zarr.open_group(str(store), mode="r+")


def prepare_labels(work: Workspace, layout: StoreLayout, count: int) -> Any:
    """Add labels for ``count`` instances to the store, or renew the metadata of those that are there, and open it."""

    def create(path: Path) -> None:
        layout.add_labels(layout.create(path), count)

    store = work.folder / STORE
    if not any("labels" in line for line in _since_last_slice(work)):
        layout.add_labels(zarr.open_group(str(store), mode="r+"), count)
        sync_tree(store / "labels")
        sync_folder(store)
        work.log(labels=count)
    else:
        _renew_metadata(store, create)
    return zarr.open_group(str(store), mode="r+")


def _renew_metadata(store: Path, create: Callable[[Path], object]) -> None:
    """Replace the metadata of a store by those of an empty one that ``create`` makes."""
    fresh = store.with_name("fresh.zarr")
    create(fresh)
    for made in filter(Path.is_file, sorted(fresh.rglob("*"))):
        sync_tree(made)
        renewed = store / made.relative_to(fresh)
        made.replace(renewed)
        sync_folder(renewed.parent)
    shutil.rmtree(fresh)


def paths_of_slice(group: Any, store: Path, maps: Iterable[str], z: int) -> list[Path]:
    """List the folders with the chunks of a slice, one for each map of ``group``, which lies in ``store``."""
    arrays = [finest(group, name) for name in maps]
    return [(store / array.path / array.metadata.encode_chunk_key((z, 0, 0))).parent.parent for array in arrays]


def intact_slices(work: Workspace, group: Any, maps: Sequence[str], executor: Executor) -> set[int]:
    """Slices that are done and are still as they were written; the others leave the journal."""
    store = work.folder / STORE
    written = [
        Written(line["slice"], tuple(paths_of_slice(group, store, maps, line["slice"])), line["receipt"])
        for line in work.journal
        if "slice" in line
    ]
    intact = _intact(written, executor)
    if len(intact) < len(written):
        lost = len(written) - len(intact)
        logger.warning("%s: %d slices are damaged (did the machine lose power?) and are predicted again", store, lost)
        work.rewrite([line for line in work.journal if "slice" not in line or line["slice"] in intact])
    return intact


def intact_blocks(
    work: Workspace, key: str, blocks: Iterable[Block], paths_of: Callable[[Block], list[Path]], executor: Executor
) -> set[Block]:
    """Blocks that were logged under ``key`` since the last slice was predicted, and are still as they were written."""
    receipts = {tuple(line[key]): line["receipt"] for line in _since_last_slice(work) if key in line}
    return _intact(
        [
            Written(block, tuple(paths_of(block)), receipts[block.start, block.stop])
            for block in blocks
            if (block.start, block.stop) in receipts
        ],
        executor,
    )


def _intact(written: Sequence[Written], executor: Executor) -> set[Any]:
    """The keys of what is as it was written; read where the work is done, since it may be much."""
    return {key for key, same in executor(check_receipts, written) if same}


def flush_slice(group: Any, store: Path, names: Iterable[str], z: int) -> None:
    """Bring a slice of the arrays ``names`` to the disk, in the ``store`` that ``group`` is."""
    names = list(names)
    for name, folder in zip(names, paths_of_slice(group, store, names, z), strict=True):
        sync_tree(folder)
        while folder != store / finest(group, name).path:  # Zarr's format 3 has one more folder between them
            folder = folder.parent
            sync_folder(folder)


def _since_last_slice(work: Workspace) -> list[dict[str, Any]]:
    """What was logged since: with another slice, all instances may be others."""
    last = max((i for i, line in enumerate(work.journal) if "slice" in line), default=-1)
    return work.journal[last + 1 :]
