"""Layers to files, and the segmentation of a whole volume in a file. Long work, for the background.

``report`` is called with (done, total) again and again, and ends the work by raising.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prompt_das.engine.project import Project, create_project
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.napari.layers import LayerVolume
from prompt_das.ops.points import POSITIVE
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.address import is_address
from prompt_das.volumes.ome_zarr import (
    INSTANCES,
    LABELS,
    add_instances,
    add_levels,
    create_ome_zarr,
    describe_instances,
    finest,
)
from prompt_das.volumes.open_volume import HDF5_SUFFIXES, TIFF_SUFFIXES, open_volume
from prompt_das.volumes.point_files import write_points
from prompt_das.volumes.pyramid import mode
from prompt_das.volumes.volume import Volume
from prompt_das.volumes.voxel_size import VoxelSize
from prompt_das.volumes.writers import write_tiff

import dask.array
import numpy as np
from dask import delayed

Report = Callable[[int, int], None]


def save_labels(path: str | Path, labels: Any, voxel_size: VoxelSize | None, report: Report) -> Path:
    """Write instance ids (Z, H, W) of any integer type as ``*.tif`` or OME-Zarr (``*.zarr``), as small as they fit.

    Raises:
        ValueError: another ending.
        FileExistsError: there is such a Zarr already.
    """
    path = Path(path)
    zarr_suffix = path.suffix.lower() == ".zarr"
    if not zarr_suffix and path.suffix.lower() not in TIFF_SUFFIXES:
        raise ValueError(f"{path}: labels are saved as .tif or .zarr, not as '{path.suffix}'")
    if zarr_suffix and path.exists():
        raise FileExistsError(f"{path} exists already; choose another name")
    shape = labels.shape
    count = max(int(np.max(labels[z])) for z in range(len(labels)))
    if zarr_suffix:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder, path.name)
            group = create_ome_zarr(part, shape, (), voxel_size, {"instances": "from napari"})

            def on(count: int) -> None:
                report(shape[0], shape[0])  # raises if the user stops it

            copy_slices(labels, add_instances(group, shape, count, voxel_size), report)
            describe_instances(group, add_levels(group, LABELS, voxel_size, mode, on), voxel_size, {})
            part.rename(path)
        return path
    dtype = np.promote_types(np.uint16, np.min_scalar_type(count))
    small = dask.array.from_array(labels, chunks=(1, *shape[1:])).astype(dtype)
    counter = _Counter(report, len(labels))
    with atomic_write(path) as part:
        write_tiff(part, small, voxel_size, counter)
    return path


def copy_slices(source: Any, target: Any, report: Report) -> None:
    """(Z, H, W) slice by slice."""
    for z in range(len(source)):
        report(z, len(source))
        target[z] = np.asarray(source[z])


def lazy_labels(path: Path) -> Any:
    """The labels (Z, H, W) that `predict_volume` has written, read when they are looked at: a dask array."""
    suffix = path.suffix.lower()
    dataset = INSTANCES if suffix == ".zarr" else "labels" if suffix in HDF5_SUFFIXES else None
    return lazy_stack(open_volume(path, dataset))


def lazy_stack(volume: Volume) -> Any:
    """A volume (Z, H, W) whose slices are read when they are looked at: a dask array."""
    read = delayed(volume.read, pure=True)
    slices = [dask.array.from_delayed(read(z), volume.shape[1:], volume.dtype) for z in range(len(volume))]
    return dask.array.stack(slices)


def segment_volume(
    weights: Path,
    volume: LayerVolume,
    file: str | None,
    output: Path,
    clicks: Mapping[int, np.ndarray],
    voxel_size: VoxelSize | None,
    report: Report,
    diameter: float | None = None,
    settings: VolumeSettings | None = None,
) -> Path:
    """Predict all slices of a layer, with 3-D instances, see :func:`prompt_das.inference.volume.predict_volume`.

    What was done before it is stopped is kept beside ``output``, and the next call goes on there.

    Args:
        file: where the layer comes from, if anywhere. A layer that is not what the file holds is copied to a Zarr
            beside ``output`` for as long as this takes.
        clicks: prompts (N, 3) of slices: x, y, label.
        diameter: of a typical object in pixels, if that decides the scale.
        settings: how instances are made.

    Raises:
        FileExistsError: there is an ``output`` already.
    """
    prompts = output.with_name(f"{output.name}.points.json")
    copy = None
    if file is None or not holds(file, volume):
        copy = copy_volume(volume, output, voxel_size, report)
    write_points(prompts, clicks)
    try:
        predict_volume(
            weights,
            VolumeSource(
                copy or str(file),
                intensity_range=volume.intensity_range,
                voxel_size=voxel_size,
                points=prompts,
                diameter=diameter,
            ),
            output,
            settings,
            overwrite=not output.exists(),  # an unfinished one of other clicks is of no use any more
            progress=report,
        )
    finally:
        prompts.unlink()
        if copy is not None:
            shutil.rmtree(copy)
    return output


def make_project(
    volume: LayerVolume,
    file: str | None,
    folder: Path,
    name: str,
    clicks: Mapping[int, np.ndarray],
    base: str | Path,
    voxel_size: VoxelSize | None,
    report: Report,
) -> Project:
    """A training on a layer and its clicks (N, 3) of slices, see :func:`prompt_das.engine.project.create_project`.

    Without positive clicks it is one without points. The clicks, and the layer unless ``file`` holds it, are written
    into the folder first; nothing stays of them if it comes to nothing.

    Raises:
        FileExistsError: there is a project, or points.json, in the folder.
    """
    points = folder / "points.json"
    if points.exists():
        raise FileExistsError(f"{points} exists already; choose an empty folder")
    copy = None
    try:
        if file is None or not holds(file, volume):
            folder.mkdir(parents=True, exist_ok=True)
            copy = copy_volume(volume, folder / name, voxel_size, report)
        if clicks:
            write_points(points, clicks, dataset=name)
        positive = any((of_slice[:, 2] == POSITIVE).any() for of_slice in clicks.values())
        images, prompts = copy or str(file), points if positive else None
        return create_project(folder, name, images, base=base, points=prompts, voxel_size=voxel_size)
    except BaseException:
        points.unlink(missing_ok=True)
        if copy is not None:
            shutil.rmtree(copy)
        raise


def holds(file: str, volume: LayerVolume) -> bool:
    """Whether a file holds this volume, as far as its first and middle slice tell."""
    if is_address(file):  # comparing it would take the network, and the window would wait
        return False
    try:
        stored = open_volume(file)
        if stored.shape != volume.shape or stored.dtype != volume.dtype:
            return False
        return all(np.array_equal(stored.read(z), volume.read(z)) for z in (0, len(volume) // 2))
    except (ValueError, OSError):  # a format of another plugin, several arrays
        return False


def copy_volume(volume: Volume, beside: Path, voxel_size: VoxelSize | None, report: Report) -> Path:
    """A Zarr with the slices of a volume. Its name has a digest of them, so that equal ones have one name."""
    digest = hashlib.blake2b(digest_size=6)
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}.", dir=beside.parent) as folder:
        part = Path(folder, beside.name)
        group: Any = create_ome_zarr(part, volume.shape, ("image",), voxel_size, {}, volume.dtype)
        for z in range(len(volume)):
            report(0, len(volume))
            image = np.ascontiguousarray(volume.read(z))
            digest.update(image.data)
            finest(group, "image")[z] = image
        for file in part.rglob("*"):  # the name has a digest of the content: equal copies count as unchanged
            os.utime(file, (0, 0))
        copy = beside.with_name(f"{beside.name}.{digest.hexdigest()}.zarr")
        shutil.rmtree(copy, ignore_errors=True)  # of a process that was killed
        return part.rename(copy)


class _Counter:
    def __init__(self, report: Report, total: int) -> None:
        self._report, self._done, self._total = report, 0, total

    def __call__(self, count: int) -> None:
        self._done += count
        self._report(self._done, self._total)
