"""What a prediction reads: a volume, how its gray values and voxels are meant, and the prompts on it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import find_volume
from prompt_das.data.physical_scale import NetworkScale, scale_of_diameter
from prompt_das.data.slices import crop_slices, open_image_volume
from prompt_das.data.volume_spec import VolumeSpec
from prompt_das.volumes.address import Address, Location, as_location, is_address
from prompt_das.volumes.point_files import SliceClicks, crop_clicks, read_clicks
from prompt_das.volumes.region import Region
from prompt_das.volumes.volume import VolumeError
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumeSource:
    """Where the input is, as a user names it.

    Attributes:
        volume, dataset, intensity_range, voxel_size: see :func:`prompt_das.data.datasets.find_volume`.
        diameter: typical diameter of an object in pixels of the volume; decides the scale, whatever the voxel size.
        points: file of prompts, see :mod:`prompt_das.volumes.point_files`; by default those of the description.
        roi: the region that is used, ``z0:z1,y0:y1,x0:x1`` in voxels of the volume, see
            :class:`prompt_das.volumes.region.Region`. Points count in the whole volume; those outside are left out.
    """

    volume: str | Path
    dataset: str | None = None
    intensity_range: Sequence[float] | None = None
    voxel_size: Sequence[float] | None = None
    points: str | Path | None = None
    diameter: float | None = None
    roi: str | None = None

    def __post_init__(self) -> None:
        if is_address(self.volume):
            object.__setattr__(self, "volume", as_location(self.volume))  # which shows no credentials

    def scale(self, cfg: CfgNode, voxel_size: VoxelSize | None) -> float:
        """Network pixels per image pixel.

        Raises:
            ValueError: the network needs to know the voxel size, or the given sizes can hardly be meant.
        """
        if self.diameter is not None:
            return scale_of_diameter(cfg, self.diameter)
        return NetworkScale.from_config(cfg).of(voxel_size, str(self.volume))

    def find(self, voxel_size: Sequence[float] | None = None) -> tuple[list[dict[str, Any]], VolumeSpec, Region | None]:
        """The slices, those of the region where there is one; the description of the volume; and the region.

        Raises:
            FileNotFoundError: no volume.
            ValueError: a volume or a region that make no sense (VolumeError: damaged data).
        """
        slices, spec = find_volume(
            self.volume,
            dataset=self.dataset,
            intensity_range=self.intensity_range,
            voxel_size=voxel_size or self.voxel_size,
        )
        if self.roi is None:
            return slices, spec, None
        shape = len(slices), slices[0]["height"], slices[0]["width"]
        region = Region.parse(self.roi, shape, str(self.volume))
        return crop_slices(slices, region), spec, region

    def open(self) -> OpenedSource:
        """Find the slices and read the prompts.

        Raises:
            FileNotFoundError: no volume or no points.
            RemoteError: an address whose data are out of reach.
            ValueError: a volume, a region or points that make no sense (VolumeError: damaged data).
        """
        slices, spec, region = self.find()
        points = self.points or spec.points
        prompts = {} if points is None else _read_prompts(points, slices)
        return OpenedSource(slices, spec.voxel_size, prompts, _files(self.volume, points), region)


@dataclass(frozen=True, eq=False)
class OpenedSource:
    """The slices of a volume (dicts as in :mod:`prompt_das.data.slices`), and the clicks (N, 3) of some of them.

    Attributes:
        files: what was named by the user beside the volume itself: its description, the file of points.
        region: of the volume, where the slices are only a part of it.
    """

    slices: list[dict[str, Any]]
    voxel_size: VoxelSize | None
    prompts: SliceClicks
    files: tuple[Path, ...]
    region: Region | None = None

    @property
    def location(self) -> Location:
        """File, folder or address of the images."""
        return as_location(self.slices[0]["file_name"])

    @property
    def paths(self) -> list[Path]:
        """All that is read: the images, and what was named by the user."""
        images = [] if isinstance(self.location, Address) else [self.location]
        return [*images, *self.files]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, H, W)."""
        return len(self.slices), self.slices[0]["height"], self.slices[0]["width"]

    @property
    def slice_names(self) -> list[str]:
        """File names of the slices, where each is a file."""
        names = open_image_volume({**self.slices[0], "box": None}).slice_names or []
        return [names[dataset_dict["slice"]] for dataset_dict in self.slices] if names else []

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """See :func:`fingerprint`."""
        return fingerprint(self.slices)


def fingerprint(slices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What changes if the images change: size and time of each file, and a digest of the first and last slice.

    Files at an address have no such times: there it is the metadata, which say how the volume is stored.
    """
    location = as_location(slices[0]["file_name"])
    inputs: dict[str, Any] = (
        open_image_volume(slices[0]).documents() if isinstance(location, Address) else _sizes_and_times(location)
    )
    return {"inputs": inputs, "first_slice": _digest_slice(slices[0]), "last_slice": _digest_slice(slices[-1])}


def _digest_slice(dataset_dict: dict[str, Any]) -> str:
    try:
        pixels = open_image_volume(dataset_dict).read(dataset_dict["slice"])
    except VolumeError as error:  # perhaps it is skipped
        return str(error)
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _sizes_and_times(root: Path) -> dict[str, list[int]]:
    """Bytes and time in ns of a file, or of each file below a folder, by its name."""
    files = [root] if root.is_file() else [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    inputs = {}
    for file in sorted(files):
        found = file.stat()
        inputs[file.name if file == root else str(file.relative_to(root))] = [found.st_size, found.st_mtime_ns]
    return inputs


def _files(volume: str | Path, points: str | Path | None) -> tuple[Path, ...]:
    named = as_location(volume)
    files = [named] if isinstance(named, Path) and named.exists() else []
    return (*files, Path(points)) if points is not None else tuple(files)


def _read_prompts(path: str | Path, slices: Sequence[dict[str, Any]]) -> SliceClicks:
    """The clicks (N, 3) on the slices, in pixels of these: of cropped ones those inside."""
    whole = open_image_volume({**slices[0], "box": None})
    depth, height, width = whole.shape
    prompts = read_clicks(path, whole.slice_names, num_slices=depth, size=(height, width))
    return {z: clicks for z, clicks in keep_prompts(path, prompts, slices).items() if len(clicks)}


def keep_prompts(path: str | Path, prompts: SliceClicks, slices: Sequence[dict[str, Any]]) -> SliceClicks:
    """Those of a volume's clicks that are on its ``slices``, or in their box. ``path``: of the file, for messages."""
    used = {dataset_dict["slice"] for dataset_dict in slices}
    kept = {z: clicks for z, clicks in prompts.items() if z in used}
    box = slices[0].get("box")
    if box is not None:
        kept = crop_clicks(kept, box)
        total, inside = (sum(map(len, clicks.values())) for clicks in (prompts, kept))
        if inside < total:
            logger.info("%s: %d of %d points are outside the region and are left out", path, total - inside, total)
    return kept
