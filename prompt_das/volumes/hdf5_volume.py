"""An HDF5 dataset as a volume, and checks of what in such a file leads elsewhere.

HDF5 gives zeros for a virtual dataset whose source is missing, reads any file that a dataset names as its storage, and
ends the process where a virtual dataset names itself or a name is not UTF-8. So the structure is checked before a pixel
is read, with names as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_das.volumes.array_volume import ArrayVolume, only_array
from prompt_das.volumes.volume import VolumeError

import h5py

_MAX_LINKS = 16  # soft links one behind the other


class HDF5Volume(ArrayVolume):
    def _open(self) -> Any:
        file = h5py.File(self.path, "r")
        name = self.dataset
        if name is None:
            name = only_array([*_dataset_names(file)], self.path)
        dataset = _find(file, name)
        if not isinstance(dataset, h5py.Dataset):
            raise VolumeError(f"{self.path} has no array '{name}'; it has {sorted(_names(file))}")
        _require_own_storage(dataset)
        if dataset.is_virtual:
            _require_sources(dataset, Path(self.path))
        return dataset

    def chunks_written(self) -> tuple[int, int]:
        array = self._handle()
        if array.chunks is None:
            return 0, 0
        total = math.prod(-(-n // chunk) for n, chunk in zip(array.shape, array.chunks))
        try:
            return total, array.id.get_num_chunks()
        except RuntimeError as error:  # h5py's for whatever HDF5 reports
            raise VolumeError(f"{self.path}: the index of its chunks is damaged: {error}") from error


def _names(group: h5py.Group) -> list[str]:
    """Names in a group. Raises ValueError for one that is not UTF-8."""
    names = []
    for name in group.id:
        try:
            names.append(name.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"the name {name!r} in its group {group.name!r} is not UTF-8") from error
    return names


def _dataset_names(group: h5py.Group, prefix: str = "", seen: frozenset[Any] = frozenset()) -> Iterator[str]:
    """Paths of the datasets in a group and the groups in it; links to elsewhere are not followed."""
    for name in _names(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield prefix + name
        elif isinstance(item, h5py.Group) and item.id not in seen:  # a group may hold itself
            yield from _dataset_names(item, f"{prefix}{name}/", seen | {item.id})


def _find(file: h5py.File, path: str, links: int = 0) -> Any:
    """What a path leads to in the file, None if nothing. Raises ValueError for a link out of it."""
    item: Any = file
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for number, part in enumerate(parts):
        if not isinstance(item, h5py.Group) or part not in _names(item):
            return None
        link = item.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"{part!r} is a link to {link.path!r} in the file {link.filename!r}; open that file instead"
            )
        if isinstance(link, h5py.SoftLink):
            if links == _MAX_LINKS:
                raise ValueError(f"{part!r} is a link that leads to no end")
            start = "" if link.path.startswith("/") else f"{item.name}/"
            return _find(file, "/".join([start + link.path, *parts[number + 1 :]]), links + 1)
        item = item[part]
    return item


def _require_own_storage(dataset: h5py.Dataset) -> None:
    if dataset.external:
        raise ValueError(
            f"the values of {dataset.name!r} are in another file, {dataset.external[0][0]!r}, which its header names; "
            "copy them into this one"
        )


def _require_sources(dataset: h5py.Dataset, path: Path) -> None:
    """Raises ValueError unless each source of a virtual dataset is there, as large as it should be, and not virtual."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for one in dataset.virtual_sources():
        source = one.file_name, one.dset_name
        where = f"{dataset.name!r} is virtual, and its source {one.dset_name!r} in {one.file_name!r}"
        if source not in shapes:
            shapes[source] = _shape_of_source(where, path if source[0] == "." else path.parent / source[0], source[1])
        shape, described = shapes[source], one.src_space.shape  # described: () where the whole source is meant
        too_small = math.prod(shape) < one.vspace.get_select_npoints()
        if too_small or any(have < need for have, need in zip(shape, described)):
            raise ValueError(f"{where} has the shape {shape}, which is too small")


def _shape_of_source(where: str, path: Path, name: str) -> tuple[int, ...]:
    if path.is_file():
        with h5py.File(path, "r") as file:
            source = _find(file, name)
            if isinstance(source, h5py.Dataset):
                if source.is_virtual:
                    raise ValueError(f"{where} is virtual as well; copy the values into one file")
                _require_own_storage(source)
                return source.shape
    raise ValueError(f"{where} is missing")
