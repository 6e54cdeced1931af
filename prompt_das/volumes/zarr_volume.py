"""A Zarr array as a volume; of an OME-Zarr the finest scale."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

from prompt_das.volumes.array_volume import ArrayVolume, only_array
from prompt_das.volumes.volume import Box, VolumeError
from prompt_das.volumes.voxel_size import VoxelSize, of_multiscales
from prompt_das.volumes.zarr_chunks import RegularFiles, require_safe_codecs, require_sound_chunks

import numpy as np
import zarr


class ZarrVolume(ArrayVolume):
    _described: tuple[dict[str, Any], dict[str, Any]] | None = None  # OME-Zarr: of the image, and of its array

    def _open(self) -> Any:
        root = zarr.open(RegularFiles(self.path, read_only=True), mode="r")
        array = root if isinstance(root, zarr.Array) else self._find(root)
        require_safe_codecs(array)
        self.axes = self.axes or _dimension_names(array)
        return array

    def _find(self, group: zarr.Group) -> zarr.Array:
        name = self.dataset or _finest_scale(group, self.path) or only_array(sorted(group.array_keys()), self.path)
        array = group.get(name)
        if not isinstance(array, zarr.Array):
            raise VolumeError(f"{self.path} has no array '{name}'; it has {sorted(group.array_keys())}")
        parent = PurePosixPath(name).parent
        image = group if parent == PurePosixPath() else group[str(parent)]
        for scales in _multiscales(image):
            for one in scales["datasets"]:
                if str(PurePosixPath(one["path"])) == PurePosixPath(name).name:
                    self.axes = _axis_names(scales)
                    self._described = scales, one
        return array

    def _stored_voxel_size(self) -> VoxelSize | None:
        self._handle()  # finds the description
        if self._described is not None:
            return of_multiscales(*self._described)
        return super()._stored_voxel_size()

    def chunks_written(self) -> tuple[int, int]:
        array = self._handle()
        return array.nchunks, array.nchunks_initialized

    def _read(self, z: int, box: Box) -> np.ndarray:
        array = self._handle()
        require_sound_chunks(self.path / array.path, array, self._region(z, box))
        return super()._read(z, box)


def _multiscales(group: Any) -> list[dict[str, Any]]:
    """OME-Zarr's description of an image in several scales, [] where there is none."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes).get("multiscales") or []


def _finest_scale(group: zarr.Group, path: Path) -> str | None:
    """The path of the largest array of the first image, whatever its place in the list."""
    scales = _multiscales(group)
    if not scales:
        return None
    sizes = {}
    for name in (one["path"] for one in scales[0]["datasets"]):
        array = group.get(name)
        if not isinstance(array, zarr.Array):
            raise VolumeError(f"{path} has no array '{name}', which its multiscales name")
        sizes[name] = math.prod(array.shape)
    return max(sizes, key=lambda name: sizes[name], default=None)


def _axis_names(scales: dict[str, Any]) -> str | None:
    """A letter for each axis. OME-Zarr before 0.3 names none: there they are t, c, z, y, x."""
    axes = scales.get("axes")
    if axes is None:
        return None
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    return "".join(name.lower() if len(name) == 1 else "?" for name in names)


def _dimension_names(array: zarr.Array) -> str | None:
    """The same of an array of Zarr's format 3 that is opened by itself."""
    names = getattr(array.metadata, "dimension_names", None) or ()
    letters = "".join(str(name).lower() for name in names)
    return letters if set("yx") <= set(letters) and len(letters) == array.ndim else None
