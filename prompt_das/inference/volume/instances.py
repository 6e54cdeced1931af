"""From the stored probability of a volume to stored instances, and to a table of them.

Memory is bounded by the size of a block, see :mod:`prompt_das.inference.volume.linking`.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.linking import (
    Block,
    Components,
    label_block,
    link_blocks,
    measure_block,
    split_into_blocks,
)
from prompt_das.inference.volume.progress import SliceBar
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.writers import VoxelSize, add_instances

import numpy as np
import zarr


def label_instances(
    group: Any,
    voxel_size: VoxelSize | None,
    linked: bool,
    threshold: float,
    min_size: int,
    progress: bool = True,
) -> Components:
    """Turn the stored probability into stored instance ids.

    ``group`` is a Zarr group as `prompt_das.volumes.writers.create_ome_zarr` makes it. Both passes over the volume are
    repeated if the process is killed: they take seconds where the network takes minutes.
    """
    probability = group["probability"]
    shape = probability.shape
    lowest = math.floor(255 * threshold) + 1
    blocks = split_into_blocks(shape, linked=linked)
    measured = []
    with SliceBar("Finding instances", shape[0], 0, progress) as bar:
        for block in blocks:
            stored = _read_block(probability, block)
            measured.append(measure_block(stored >= lowest, stored, block))
            bar.slice_done(block.stop - block.start)
    ids, instances = link_blocks(measured, min_size)
    labels = add_instances(group, shape, len(instances), voxel_size)
    with SliceBar("Writing instances", shape[0], 0, progress) as bar:
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
    with atomic_write(path) as part, open(part, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
