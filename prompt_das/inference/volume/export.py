"""Results in their formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.output_files import OutputFiles
from prompt_das.inference.volume.progress import SliceBar
from prompt_das.inference.volume.store import STORE
from prompt_das.inference.volume.table import Columns
from prompt_das.volumes.ome_zarr import (
    INSTANCES,
    LABELS,
    Origin,
    add_image_levels,
    add_levels,
    describe_instances,
    finest,
)
from prompt_das.volumes.pyramid import mean, mode
from prompt_das.volumes.voxel_size import VoxelSize
from prompt_das.volumes.writers import write_hdf5, write_tiff


def export(
    folder: Path,
    group: Any,
    files: OutputFiles,
    voxel_size: VoxelSize | None,
    origin: Origin,
    maps: tuple[str, ...],
    columns: Columns,
    progress: bool,
) -> dict[str, Path]:
    """Write the result in its format into the folder of the job.

    Args:
        folder: of the job; ``STORE`` in it holds the ``group``.
        origin: the voxel (z, y, x) of a larger volume that is the first one here.
        maps: names of the predicted maps.
        columns: of the table of instances.

    Returns:
        Names in the folder -> where these files belong.
    """
    slices = finest(group, "probability").shape[0]
    with SliceBar(f"Writing {files.output.name}", slices * (len(maps) + 1), 0, progress) as bar:
        if files.format == "zarr":
            _complete(group, voxel_size, origin, maps, columns, bar.slice_done)
            return {STORE: files.output}
        arrays = {**{name: finest(group, name) for name in maps}, "labels": group[INSTANCES]}
        if files.format == "hdf5":
            write_hdf5(folder / "result", arrays, voxel_size, group.attrs["prompt_das"], bar.slice_done)
            return {"result": files.output}
        for name, array in arrays.items():
            write_tiff(folder / name, array, voxel_size, bar.slice_done)
    return {**files.beside, "labels": files.output}


def _complete(
    group: Any,
    voxel_size: VoxelSize | None,
    origin: Origin,
    maps: tuple[str, ...],
    columns: Columns,
    on: Callable[[int], object],
) -> None:
    """Add to an OME-Zarr what viewers want: coarser levels, and what is known of the instances."""
    for name in maps:
        add_image_levels(group, name, voxel_size, mean, on, origin)
    describe_instances(group, add_levels(group, LABELS, voxel_size, mode, on), voxel_size, columns, origin)
