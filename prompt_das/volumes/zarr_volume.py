"""A Zarr array as a volume; of an OME-Zarr the finest scale."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

from prompt_das.volumes.address import Address, Location
from prompt_das.volumes.array_volume import ArrayVolume, only_array
from prompt_das.volumes.volume import RemoteError, VolumeError
from prompt_das.volumes.voxel_size import VoxelSize, of_multiscales
from prompt_das.volumes.zarr_chunks import ChunkChecks, RegularFiles

import zarr


class ZarrVolume(ArrayVolume):
    _described: tuple[dict[str, Any], dict[str, Any]] | None = None  # OME-Zarr: of the image, and of its array

    def _open(self) -> Any:
        store = _open_store(self.path)
        try:
            root = zarr.open(store, mode="r")
        except FileNotFoundError:
            if isinstance(self.path, Address):
                raise RemoteError(
                    f"{self.path} holds no Zarr: there is no zarr.json, .zarray or .zgroup. Is the address right?"
                ) from None
            raise
        array = root if isinstance(root, zarr.Array) else self._find(root)
        store.checks = ChunkChecks(array)
        self.axes = self.axes or _dimension_names(array)
        return array

    def documents(self) -> dict[str, str]:
        store = self._handle().store
        return {} if isinstance(store, RegularFiles) else dict(store.documents)

    def _find(self, group: zarr.Group) -> zarr.Array:
        name = self.dataset or _finest_scale(group, self.path) or _only_array(group, self.path)
        array = group.get(name)
        if not isinstance(array, zarr.Array):
            raise VolumeError(f"{self.path} has no array '{name}'{_names_in(group)}")
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
        if not array.store.supports_listing:
            return 0, 0
        return array.nchunks, array.nchunks_initialized


def _open_store(path: Location) -> Any:
    if not isinstance(path, Address):
        return RegularFiles(path, read_only=True)
    from prompt_das.volumes.remote_files import RemoteFiles  # here: its libraries are an extra

    return RemoteFiles(path)


def _can_list(group: zarr.Group) -> bool:
    return group.store.supports_listing or group.metadata.consolidated_metadata is not None


def _only_array(group: zarr.Group, path: Location) -> str:
    if not _can_list(group):
        raise VolumeError(
            f"{path} holds several arrays, and a server does not list them: say which one (--dataset, `images_dataset`)"
        )
    return only_array(sorted(group.array_keys()), path)


def _names_in(group: zarr.Group) -> str:
    return f"; it has {sorted(group.array_keys())}" if _can_list(group) else ""


def _multiscales(group: Any) -> list[dict[str, Any]]:
    """OME-Zarr's description of an image in several scales, [] where there is none."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes).get("multiscales") or []


def _finest_scale(group: zarr.Group, path: Location) -> str | None:
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
