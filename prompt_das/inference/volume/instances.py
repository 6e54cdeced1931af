"""From the stored maps of a volume to stored instances, here or by the workers of a cluster:

1. **Find** the components of each block on its own (:mod:`prompt_das.inference.volume.measured_block`).
2. **Link** what lies at the borders of blocks (:mod:`prompt_das.inference.volume.borders`), in this process.
3. **Write** the ids of each block.

What the first and the last step leave of a block is on the disk, with a line in the journal of the job: stopped at any
moment, it goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.block_files import BlockFiles
from prompt_das.inference.volume.block_labels import InstanceRule, labeling_of
from prompt_das.inference.volume.borders import BlockIds, Border, link_borders
from prompt_das.inference.volume.durable import Receipt, make_receipt
from prompt_das.inference.volume.executors import Executor, run_here
from prompt_das.inference.volume.found_instances import FoundInstances
from prompt_das.inference.volume.linking import Block, split_into_blocks
from prompt_das.inference.volume.measured_block import measure
from prompt_das.inference.volume.nearest_voxels import NearestVoxels, nearest_of_parts
from prompt_das.inference.volume.progress import Progress, SliceBar
from prompt_das.inference.volume.store import (
    STORE,
    StoreLayout,
    flush_slice,
    intact_blocks,
    paths_of_slice,
    prepare_labels,
)
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.volumes.ome_zarr import LABELS, finest

import numpy as np
import zarr

MOST_SLICES = 64  # of a block: more leave less to link, fewer are lost with a worker
LEAST_SLICES = 4  # the slice that two blocks share is labeled in both
FEWEST_BLOCKS = 8  # of a volume with enough slices, to share out

DoneBlock = tuple[Block, Receipt]  # with what was written of it


@dataclass(frozen=True, eq=False)
class WriteTask:
    """A block to write.

    Attributes:
        block: which slices.
        ids: of its instances.
        centroids: (k, 3) of the instances that the components at its border belong to.
    """

    block: Block
    ids: BlockIds
    centroids: np.ndarray


def plan_blocks(depth: int, *, linked: bool) -> list[Block]:
    """The blocks of a volume of so many slices."""
    slices = min(MOST_SLICES, max(LEAST_SLICES, depth // FEWEST_BLOCKS))
    return split_into_blocks(Block(0, depth, depth), slices, linked=linked)


def label_instances(
    work: Workspace,
    layout: StoreLayout,
    rule: InstanceRule,
    executor: Executor = run_here,
    *,
    progress: Progress = True,
) -> FoundInstances:
    """Turn the maps in the store of a job into instance ids there.

    Returns the instances, whose files are in the folder of the job.
    """
    store, blocks = work.folder / STORE, plan_blocks(layout.shape[0], linked=rule.linked)
    files = BlockFiles(str(work.folder / "blocks"))
    Path(files.folder).mkdir(exist_ok=True)
    find = partial(find_in_blocks, str(store), files, rule)
    run_pass = partial(_run_pass, work, executor, layout.shape[0], progress)
    run_pass("Finding instances", "found", find, {block: block for block in blocks}, lambda b: [files.found(b)])

    borders = [Border.of(files.read_found(block), rule.min_size) for block in blocks]
    ids, at_border = link_borders(borders, rule.min_size)
    del borders
    group = prepare_labels(work, layout, sum(one.count for one in ids))
    centroids = np.append(at_border.instances.centroid, np.zeros((1, 3)), axis=0)  # the last for -1
    tasks = {
        block: WriteTask(block, of_block, centroids[index])
        for block, of_block, index in zip(blocks, ids, at_border.of_parts, strict=True)
    }
    write = partial(write_blocks, str(store), files, rule.min_size)
    run_pass("Writing instances", "written", write, tasks, partial(_written, group, store, files))
    points = _points_at_borders(files, blocks, at_border.of_parts, len(at_border.ids))
    return FoundInstances(blocks, files, ids, at_border, points, rule.min_size)


def _run_pass(
    work: Workspace,
    executor: Executor,
    slices: int,
    progress: Progress,
    title: str,
    key: str,
    function: Any,
    tasks: Mapping[Block, Any],
    paths_of: Callable[[Block], list[Path]],
) -> None:
    """Do what is not done yet, and log each block, under ``key``, with the receipt of what was written of it."""
    done = intact_blocks(work, key, tasks, paths_of, executor)
    todo = [task for block, task in tasks.items() if block not in done]
    with SliceBar(title, slices, sum(block.stop - block.start for block in done), progress) as bar:
        for block, receipt in executor(function, todo, at_once=1):
            work.log(**{key: [block.start, block.stop]}, receipt=receipt)
            bar.slice_done(block.stop - block.start)


def find_in_blocks(store: str, files: BlockFiles, rule: InstanceRule, blocks: Sequence[Block]) -> Iterator[DoneBlock]:
    """Find the components of blocks, each on its own, and write their files."""
    labeling = labeling_of(zarr.open_group(store, mode="r"), rule)
    for block in blocks:
        files.write_found(block, *measure(labeling, block, rule))
        yield block, make_receipt(files.found(block))


def write_blocks(store: str, files: BlockFiles, min_size: int, tasks: Sequence[WriteTask]) -> Iterator[DoneBlock]:
    """Write the ids of blocks, and the points of their instances, from what was found."""
    group: Any = zarr.open_group(store, mode="r+")
    labels = finest(group, LABELS)
    height, width = labels.shape[1:]
    for task in tasks:
        block = task.block
        measured, runs = files.read_found(block), files.read_runs(block)
        ids = task.ids.table(measured, min_size).astype(labels.dtype)
        size = np.maximum(measured.components.size, 1)  # some have no voxel here
        centroids = measured.components.index_sum / size[:, None]
        centroids[measured.border - 1] = task.centroids
        points = NearestVoxels(centroids)
        for z in range(block.start, block.stop):
            in_slice = runs.between(z * height * width, (z + 1) * height * width)
            pixels = np.zeros((height, width), labels.dtype)
            pixels.ravel()[in_slice.voxels()] = np.repeat(ids[in_slice.label], in_slice.length)
            labels[z] = pixels
            flush_slice(group, Path(store), [LABELS], z)
            points.add_slice(z, in_slice, width)
        files.write_points(block, points)
        yield block, make_receipt(*_written(group, Path(store), files, block))


def _written(group: Any, store: Path, files: BlockFiles, block: Block) -> list[Path]:
    """What :func:`write_blocks` writes of a block."""
    labels = (paths_of_slice(group, store, [LABELS], z) for z in range(block.start, block.stop))
    return [files.points(block), *(path for paths in labels for path in paths)]


def _points_at_borders(
    files: BlockFiles, blocks: Sequence[Block], instances: Sequence[np.ndarray], count: int
) -> np.ndarray:
    """(count, 3) points of the instances at borders, from those of their parts; ``instances``: of the parts."""
    voxels, distance = [np.zeros((0, 3), np.int64)], [np.zeros(0)]
    for block in blocks:
        border, points = files.read_found(block).border, files.read_points(block)
        voxels.append(points.voxels[border - 1])
        distance.append(points.distance[border - 1])
    of_parts = np.concatenate([np.zeros(0, np.int64), *instances])
    return nearest_of_parts(np.concatenate(voxels), np.concatenate(distance), of_parts, count)
