"""A table of the instances of a volume, as CSV or Parquet."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prompt_das.inference.volume.found_instances import SomeInstances
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np

Columns = Mapping[str, np.ndarray]


def table_columns(some: SomeInstances, linked: bool, voxel_size: VoxelSize | None) -> dict[str, np.ndarray]:
    """Columns (n,) of n instances: id, point, centroid, bounding box (half open), size, mean probability.

    The point z, y, x is the instance's voxel nearest to its centroid, so the table can be read as points, each of which
    lies inside its instance. Coordinates count pixels as napari does: the center of the first one is 0. Sizes are also
    in micrometers, if the voxel size is known.
    """
    instances, points = some.components, some.points
    low, high, centroid = instances.low, instances.high, instances.centroid
    columns: dict[str, np.ndarray] = {"id": some.ids.astype(np.int64)}
    columns |= {axis: points[:, i] for i, axis in enumerate("zyx")}
    columns |= {f"centroid_{axis}": centroid[:, i].round(3) for i, axis in enumerate("zyx") if linked or axis != "z"}
    for i, axis in enumerate("zyx"):
        if linked or axis != "z":
            columns |= {f"{axis}_start": low[:, i], f"{axis}_stop": high[:, i]}
    columns["voxels" if linked else "pixels"] = instances.size
    if voxel_size is not None:
        z, y, x = (size / 1000 for size in voxel_size)
        physical = instances.size * (z * y * x if linked else y * x)
        columns["volume_um3" if linked else "area_um2"] = np.array([float(f"{size:.6g}") for size in physical])
    columns["mean_probability"] = (instances.probability / 255).round(4)
    return columns


def join_columns(parts: Iterable[Columns]) -> dict[str, np.ndarray]:
    """The columns of all parts, of which there is at least one."""
    together = list(parts)
    return {name: np.concatenate([columns[name] for columns in together]) for name in together[0]}


def is_parquet(path: Path) -> bool:
    """Whether a table of this name is Parquet; any other is CSV."""
    return path.suffix.lower() == ".parquet"


def write_table(path: Path, parts: Iterable[Columns], parquet: bool) -> None:
    """Write one row for each instance, part by part (at least one, which may be empty). Parquet needs pyarrow."""
    write = _write_parquet if parquet else _write_csv
    with atomic_write(path) as part:
        write(part, iter(parts))


def _write_parquet(path: Path, parts: Iterator[Columns]) -> None:
    import pyarrow  # here: the extra `parquet`
    import pyarrow.parquet

    first = pyarrow.table(dict(next(parts)))
    with pyarrow.parquet.ParquetWriter(path, first.schema) as writer:
        for table in itertools.chain([first], (pyarrow.table(dict(columns)) for columns in parts)):
            writer.write_table(table)


def _write_csv(path: Path, parts: Iterator[Columns]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        for number, columns in enumerate(parts):
            if number == 0:
                writer.writerow(columns)
            writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
