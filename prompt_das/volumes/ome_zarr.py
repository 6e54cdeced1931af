"""OME-Zarr: images and labels in several resolutions, filled slice by slice.

    .zattrs                   multiscales and omero of the first image; `prompt_das`: what it was made from, and how
    probability/0, 1, ...     an image: its levels, the finest first, uint8 (Z, H, W), 255 is 1
    density/0, 1, ...         another one
    labels/instances/0, ...   ids, 0 is background: the labels of the first image

Whoever opens the whole sees the first image with its labels; each image can be opened by itself. Two versions of the
format (NGFF) are written:

    0.4   Zarr format 2, compressed with Blosc: what most viewers read (Bio-Formats and QuPath take no bare Zstandard)
    0.5   Zarr format 3, attributes in zarr.json under `ome`. Chunks lie in shards, so there are few files, and each
          chunk and each shard's index has a checksum

Nothing in it depends on the time or the machine, so equal inputs give equal files.

Z, H, W: slices, height and width of a volume, in voxels. Voxel sizes are (z, y, x) in nanometers. An ``origin`` is the
voxel (z, y, x) of a larger volume that is the first one here, which the metadata say.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_das.volumes.pyramid import Level, Reduction, coarsen, plan_levels
from prompt_das.volumes.voxel_size import VoxelSize

import numcodecs
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

OME_VERSIONS = {"0.4": 2, "0.5": 3}  # -> format of Zarr
FINEST = "0"
LABELS = "labels/instances"
INSTANCES = f"{LABELS}/{FINEST}"
MOST_DESCRIBED = 10_000  # instances, so that the attributes stay a few megabytes
_CHUNK = {2: 1024, 3: 512}  # pixels; each slice has chunks of its own, so that slices can be written at the same time
_SHARD = 4096
_CHUNK_VOXELS = 1 << 20  # of coarser levels, whose chunks reach through several slices
_CHANNELS = {"probability": "foreground", "density": "centers"}
_GOLDEN_RATIO = 0.618034  # multiples of it spread evenly over the circle of hues

Progress = Callable[[int], object]
Origin = tuple[int, int, int]
NO_OFFSET: Origin = (0, 0, 0)


def create_ome_zarr(
    path: Path,
    shape: tuple[int, int, int],
    names: Sequence[str],
    voxel_size: VoxelSize | None,
    about: dict[str, Any],
    dtype: Any = np.uint8,
    version: str = "0.4",
    origin: Origin = NO_OFFSET,
) -> zarr.Group:
    """A new OME-Zarr with images of the given names, all zero and of one level, and what it is ``about``."""
    root = zarr.open_group(str(path), mode="w", zarr_format=OME_VERSIONS[version])  # type: ignore[arg-type]
    for name in names:
        _create_array(root.create_group(name), FINEST, Level(shape, (1, 1, 1)), dtype)
        describe_image(root, name, [Level(shape, (1, 1, 1))], voxel_size, origin)
    root.attrs["prompt_das"] = about
    return root


def finest(group: Any, name: str) -> Any:
    """The array of an image at full resolution."""
    return group[f"{name}/{FINEST}"]


def add_instances(
    group: zarr.Group,
    shape: tuple[int, int, int],
    count: int,
    voxel_size: VoxelSize | None,
    origin: Origin = NO_OFFSET,
) -> zarr.Array:
    """The array of instance ids, of a type that holds ``count`` of them; one that is there already is replaced."""
    level = Level(shape, (1, 1, 1))
    _describe(group.create_group("labels", overwrite=True), {"labels": ["instances"]})
    group.create_group(LABELS)
    # By name: of NumPy's two types called uint64, Zarr knows one.
    dtype = np.promote_types(np.uint16, np.min_scalar_type(count)).name
    array = _create_array(group[LABELS], FINEST, level, dtype)
    describe_instances(group, [level], voxel_size, {}, origin)
    return array


def add_levels(group: Any, name: str, voxel_size: VoxelSize | None, reduce: Reduction, on: Progress) -> list[Level]:
    """Make the coarser levels of a filled image or of labels (``name`` in ``group``), each anew; returns all levels.

    Args:
        reduce: voxels -> one, see :mod:`prompt_das.volumes.pyramid`.
        on: called with 1 for each slice of the finest level.
    """
    levels = create_levels(group, name, voxel_size)
    for index, level in enumerate(levels[1:], 1):
        fill_level(group, name, levels, index, (0, level.shape[0]), reduce, on if index == 1 else None)
    return levels


def create_levels(group: Any, name: str, voxel_size: VoxelSize | None) -> list[Level]:
    """Make the coarser levels of an image or of labels, all zero, those that are there anew; returns all levels."""
    array = finest(group, name)
    levels = plan_levels(array.shape, voxel_size)
    for index, level in enumerate(levels[1:], 1):
        _create_array(group[name], str(index), level, array.dtype)
    return levels


def fill_level(
    group: Any,
    name: str,
    levels: Sequence[Level],
    index: int,
    span: tuple[int, int],
    reduce: Reduction,
    on: Progress | None = None,
) -> None:
    """Fill a coarser level from the one before it.

    Args:
        levels: all of them.
        index: of the level in these, at least 1.
        span: its slices ``start`` ... ``stop - 1``. Where several processes fill a level, ``start`` is at a chunk.
        on: called with 1 for each slice of the level before.
    """
    finer, coarser = group[f"{name}/{index - 1}"], group[f"{name}/{index}"]
    step = levels[index - 1].step_to(levels[index])
    start, stop = span
    slices = _read(finer, start * step[0], min(stop * step[0], finer.shape[0]), on)
    _write(coarser, coarsen(slices, step, reduce), start)


def describe_image(
    root: Any, name: str, levels: Sequence[Level], voxel_size: VoxelSize | None, origin: Origin = NO_OFFSET
) -> None:
    """Write the attributes of an image, for the first one those of the whole as well."""
    array = finest(root, name)
    low, high = (0, int(np.iinfo(array.dtype).max)) if array.dtype.kind in "ui" else (0, 1)
    window = {"min": low, "max": high, "start": low, "end": high}
    channel = {"label": _CHANNELS.get(name, name), "color": "FFFFFF", "active": True, "window": window}
    omero = {"channels": [channel], "rdefs": {"model": "greyscale", "defaultZ": array.shape[0] // 2, "defaultT": 0}}

    def attributes(prefix: str) -> dict[str, Any]:
        return {"multiscales": [_multiscale(name, prefix, levels, voxel_size, origin, "mean")], "omero": omero}

    _describe(root[name], attributes(""))
    if name == _first_image(root, name):
        _describe(root, attributes(f"{name}/"))


def describe_instances(
    group: Any,
    levels: Sequence[Level],
    voxel_size: VoxelSize | None,
    columns: Mapping[str, np.ndarray],
    origin: Origin = NO_OFFSET,
) -> None:
    """Write the attributes of the labels: levels, image, and of up to ``MOST_DESCRIBED`` instances color and numbers.

    Args:
        columns: numbers of the n instances 1 ... n, (n,) each.
    """
    count = len(next(iter(columns.values()), ()))
    label: dict[str, Any] = {"source": {"image": "../../"}}
    if 0 < count <= MOST_DESCRIBED:  # of some alone, viewers would hide the others
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        label["colors"] = [{"label-value": i, "rgba": _color(i)} for i in range(1, count + 1)]
        label["properties"] = [
            {"label-value": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows, 1)
        ]
    multiscale = _multiscale("instances", "", levels, voxel_size, origin, "mode")
    _describe(group[LABELS], {"multiscales": [multiscale], "image-label": label})


def _read(array: Any, start: int, stop: int, on: Progress | None) -> Iterator[np.ndarray]:
    for z in range(start, stop):
        yield np.asarray(array[z])
        if on is not None:
            on(1)


def _write(array: Any, slices: Iterable[np.ndarray], start: int) -> None:
    """Write slices in their order, as many at once as a chunk holds."""
    slices = iter(slices)
    while together := list(itertools.islice(slices, array.chunks[0])):
        array[start : start + len(together)] = np.stack(together)
        start += len(together)


def _create_array(group: Any, name: str, level: Level, dtype: Any) -> zarr.Array:
    """A new array, all zero; one that is there is replaced."""
    zarr_format = group.metadata.zarr_format
    depth, *sides = level.shape
    sides = [min(_CHUNK[zarr_format], side) for side in sides]
    # A coarser level has fewer pixels in proportion: no more are held for a chunk than a slice of the finest has.
    at_once = min(level.factors[1] * level.factors[2], _CHUNK_VOXELS // (sides[0] * sides[1]))
    chunks = (max(1, min(depth, at_once)), *sides)
    options: dict[str, Any] = {"chunks": chunks, "fill_value": 0, "dtype": dtype, "overwrite": True}
    if zarr_format == 2:
        options["compressors"] = numcodecs.Blosc(cname="zstd", clevel=3, shuffle=numcodecs.Blosc.NOSHUFFLE)
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        most = [min(_SHARD // chunk, -(-side // chunk)) for chunk, side in zip(sides, level.shape[1:], strict=True)]
        options["shards"] = (chunks[0], *(chunk * max(1, n) for chunk, n in zip(sides, most, strict=True)))
        options["compressors"] = ZstdCodec(level=0, checksum=True)
        options["dimension_names"] = ("z", "y", "x")
    return group.create_array(name, shape=level.shape, **options)


def _first_image(root: Any, name: str) -> str:
    """The image that the attributes of the whole are of, ``name`` where there is none yet."""
    scales = _described(root).get("multiscales")
    return scales[0]["name"] if scales else name


def _described(group: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(group.attrs)
    return attributes.get("ome", {}) if group.metadata.zarr_format == 3 else attributes


def _describe(group: Any, attributes: dict[str, Any]) -> None:
    """Write attributes of OME-Zarr, with the version where its rules want it."""
    if group.metadata.zarr_format == 3:
        group.attrs["ome"] = {"version": "0.5", **attributes}
        return
    version = {"version": "0.4"}
    for key, value in attributes.items():
        if key == "multiscales":
            value = [{**version, **one} for one in value]
        elif key in ("omero", "image-label"):
            value = {**version, **value}
        group.attrs[key] = value


def _multiscale(
    name: str, prefix: str, levels: Sequence[Level], voxel_size: VoxelSize | None, origin: Origin, how: str
) -> dict[str, Any]:
    """Describe the levels of an image. Coordinates are those of voxels' centers, 0 of the larger volume's first one."""
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    sizes = voxel_size or (1, 1, 1)
    datasets = []
    for index, level in enumerate(levels):
        scale = [float(size * factor) for size, factor in zip(sizes, level.factors, strict=True)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if index or any(origin):
            first = [start + (factor - 1) / 2 for start, factor in zip(origin, level.factors, strict=True)]
            shift = [float(size * at) for size, at in zip(sizes, first, strict=True)]
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": f"{prefix}{index}", "coordinateTransformations": transformations})
    axes = [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    return {"name": name, "type": how, "axes": axes, "datasets": datasets}


def _color(label: int) -> list[int]:
    """A color (red, green, blue, opacity, 0 ... 255) that differs from those of the labels before."""
    rgb = colorsys.hsv_to_rgb(label * _GOLDEN_RATIO % 1, 0.65 + 0.1 * (label % 3), 1 - 0.15 * (label % 2))
    return [*(round(255 * part) for part in rgb), 255]
