"""Results in their formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.inference.volume.output_files import OutputFiles
from prompt_das.inference.volume.progress import SliceBar
from prompt_das.volumes.writers import INSTANCES, VoxelSize, write_hdf5, write_tiff

STORE = "volume.zarr"  # in the folder of the job


def export(
    folder: Path, group: Any, files: OutputFiles, voxel_size: VoxelSize | None, maps: tuple[str, ...], progress: bool
) -> dict[str, Path]:
    """Write the result in its format into the folder of the job.

    Args:
        folder: of the job; ``STORE`` in it holds the ``group``.
        maps: names of the predicted maps.

    Returns:
        Names in the folder -> where these files belong.
    """
    if files.format == "zarr":
        return {STORE: files.output}
    arrays = {**{name: group[name] for name in maps}, "labels": group[INSTANCES]}
    slices = group["probability"].shape[0]
    with SliceBar(f"Writing {files.output.name}", slices * len(arrays), 0, progress) as bar:
        if files.format == "hdf5":
            write_hdf5(folder / "result", arrays, voxel_size, group.attrs["prompt_das"], bar.slice_done)
            return {"result": files.output}
        for name, array in arrays.items():
            write_tiff(folder / name, array, voxel_size, bar.slice_done)
    return {**files.beside, "labels": files.output}
