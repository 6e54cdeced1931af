"""Results in their formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.inference.volume.executors import Executor
from prompt_das.inference.volume.output_files import OutputFiles
from prompt_das.inference.volume.progress import Progress, SliceBar
from prompt_das.inference.volume.pyramids import make_pyramids
from prompt_das.inference.volume.store import STORE, StoreLayout
from prompt_das.inference.volume.table import Columns
from prompt_das.volumes.ome_zarr import INSTANCES, LABELS, describe_image, describe_instances, finest
from prompt_das.volumes.writers import write_hdf5, write_tiff


def export(
    folder: Path,
    group: Any,
    layout: StoreLayout,
    files: OutputFiles,
    columns: Columns,
    executor: Executor,
    progress: Progress,
) -> dict[str, Path]:
    """Write the result in its format into the folder of the job.

    Args:
        folder: of the job; ``STORE`` in it holds the ``group``.
        columns: of the table of instances.
        executor: where pyramids are made.

    Returns:
        Names in the folder -> where these files belong.
    """
    if files.format == "zarr":
        _complete(folder / STORE, group, layout, columns, executor, progress)
        return {STORE: files.output}
    arrays = {**{name: finest(group, name) for name in layout.maps}, "labels": group[INSTANCES]}
    with SliceBar(f"Writing {files.output.name}", layout.shape[0] * len(arrays), 0, progress) as bar:
        if files.format == "hdf5":
            write_hdf5(folder / "result", arrays, layout.voxel_size, group.attrs["prompt_das"], bar.slice_done)
            return {"result": files.output}
        for name, array in arrays.items():
            write_tiff(folder / name, array, layout.voxel_size, bar.slice_done)
    return {**files.beside, "labels": files.output}


def _complete(
    store: Path, group: Any, layout: StoreLayout, columns: Columns, executor: Executor, progress: Progress
) -> None:
    """Add to an OME-Zarr what viewers want: coarser levels, and what is known of the instances."""
    levels = make_pyramids(store, group, [*layout.maps, LABELS], layout.voxel_size, executor, progress)
    for name in layout.maps:
        describe_image(group, name, levels, layout.voxel_size, layout.origin)
    describe_instances(group, levels, layout.voxel_size, columns, layout.origin)
