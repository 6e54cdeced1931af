"""A table of the instances of a volume, as CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from prompt_das.inference.volume.linking import Components
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np

Columns = Mapping[str, np.ndarray]


def table_columns(
    instances: Components, points: np.ndarray, linked: bool, voxel_size: VoxelSize | None
) -> dict[str, np.ndarray]:
    """Columns (n,) of n instances: id, point, centroid, bounding box (half open), size, mean probability.

    The point z, y, x is the instance's voxel nearest to its centroid, so the table can be read as points, each of which
    lies inside its instance. Coordinates count pixels as napari does: the center of the first one is 0. Sizes are also
    in micrometers, if the voxel size is known.

    Args:
        points: (n, 3) z, y, x, see :func:`prompt_das.inference.volume.instances.label_instances`.
    """
    low, high, centroid = instances.low, instances.high, instances.centroid
    columns: dict[str, np.ndarray] = {"id": np.arange(1, len(instances) + 1)}
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


def is_parquet(path: Path) -> bool:
    """Whether a table of this name is Parquet; any other is CSV."""
    return path.suffix.lower() == ".parquet"


def write_table(path: Path, columns: Columns, parquet: bool) -> None:
    """Write one row for each instance. Parquet needs pyarrow."""
    with atomic_write(path) as part:
        if parquet:
            import pyarrow  # here: the extra `parquet`
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(dict(columns)), part)
            return
        with open(part, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
