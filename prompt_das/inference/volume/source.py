"""What a prediction reads: a volume, how its gray values and voxels are meant, and the prompts on it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import find_volume
from prompt_das.data.physical_scale import NetworkScale, scale_of_diameter
from prompt_das.data.slices import open_image_volume
from prompt_das.volumes.point_files import SliceClicks, read_clicks
from prompt_das.volumes.volume import VolumeError
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np
from detectron2.config import CfgNode


@dataclass(frozen=True)
class VolumeSource:
    """Where the input is, as a user names it.

    Attributes:
        volume, dataset, intensity_range, voxel_size: see :func:`prompt_das.data.datasets.find_volume`.
        diameter: typical diameter of an object in pixels of the volume; decides the scale, whatever the voxel size.
        points: file of prompts, see :mod:`prompt_das.volumes.point_files`; by default those of the description.
    """

    volume: str | Path
    dataset: str | None = None
    intensity_range: Sequence[float] | None = None
    voxel_size: Sequence[float] | None = None
    points: str | Path | None = None
    diameter: float | None = None

    def scale(self, cfg: CfgNode, voxel_size: VoxelSize | None) -> float:
        """Network pixels per image pixel.

        Raises:
            ValueError: the network needs to know the voxel size, or the given sizes can hardly be meant.
        """
        if self.diameter is not None:
            return scale_of_diameter(cfg, self.diameter)
        return NetworkScale.from_config(cfg).of(voxel_size, str(self.volume))

    def open(self) -> OpenedSource:
        """Find the slices and read the prompts.

        Raises:
            FileNotFoundError: no volume or no points.
            ValueError: a volume or points that make no sense (VolumeError: damaged data).
        """
        slices, spec = find_volume(
            self.volume,
            dataset=self.dataset,
            intensity_range=self.intensity_range,
            voxel_size=self.voxel_size,
        )
        points = self.points or spec.points
        return OpenedSource(slices, spec.voxel_size, _read_prompts(points, slices), _files(self.volume, points))


@dataclass(frozen=True, eq=False)
class OpenedSource:
    """The slices of a volume (dicts as in :mod:`prompt_das.data.slices`), and the clicks (N, 3) of some of them.

    Attributes:
        files: what was named by the user beside the volume itself: its description, the file of points.
    """

    slices: list[dict[str, Any]]
    voxel_size: VoxelSize | None
    prompts: SliceClicks
    files: tuple[Path, ...]

    @property
    def image_path(self) -> Path:
        """File or folder of the images."""
        return Path(self.slices[0]["file_name"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, H, W)."""
        return len(self.slices), self.slices[0]["height"], self.slices[0]["width"]

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What changes if the input changes: size and time of each file, and a digest of the first and last slice."""
        root = self.image_path
        files = (
            [root] if root.is_file() else [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
        )
        inputs = {}
        for file in sorted(files):
            found = file.stat()
            inputs[file.name if file == root else str(file.relative_to(root))] = [found.st_size, found.st_mtime_ns]
        return {
            "inputs": inputs,
            "first_slice": self._digest_slice(0),
            "last_slice": self._digest_slice(-1),
        }

    def _digest_slice(self, index: int) -> str:
        dataset_dict = self.slices[index]
        try:
            pixels = open_image_volume(dataset_dict).read(dataset_dict["slice"])
        except VolumeError as error:  # perhaps it is skipped
            return str(error)
        return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _files(volume: str | Path, points: str | Path | None) -> tuple[Path, ...]:
    named = Path(volume).expanduser()
    files = [named] if named.exists() else []
    return (*files, Path(points)) if points is not None else tuple(files)


def _read_prompts(path: str | Path | None, slices: Sequence[dict[str, Any]]) -> SliceClicks:
    if path is None:
        return {}
    volume = open_image_volume(slices[0])
    depth, height, width = volume.shape
    prompts = read_clicks(path, volume.slice_names, num_slices=depth, size=(height, width))
    present = {dataset_dict["slice"] for dataset_dict in slices}
    return {z: points for z, points in prompts.items() if z in present and len(points)}
