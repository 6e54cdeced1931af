"""Which array of a result holds the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.volumes.volume import VolumeError, volume_errors
from prompt_das.volumes.zarr_chunks import RegularFiles

import h5py
import zarr


def label_array(path: str | Path) -> str | None:
    """The array of labels in a file that holds images as well: the one label image of an OME-Zarr, or `labels` of HDF5.

    Returns:
        its name for `open_volume`; None where the format has no such place, or a file does not use it.

    Raises:
        VolumeError: an OME-Zarr has several label images, or the file is damaged.
    """
    path = Path(path).expanduser()
    with volume_errors(str(path)):
        if path.suffix.lower() in (".h5", ".hdf5", ".hdf") and path.is_file():
            with h5py.File(path, "r") as file:
                own = isinstance(file.get("labels", getlink=True), h5py.HardLink)
                return "labels" if own and isinstance(file["labels"], h5py.Dataset) else None
        if path.is_dir() and (path / "labels").is_dir():
            return _of_ome_zarr(path)
    return None


def _of_ome_zarr(path: Path) -> str | None:
    root: Any = zarr.open(RegularFiles(path, read_only=True), mode="r")
    labels: Any = root.get("labels") if isinstance(root, zarr.Group) else None
    names = _described(labels).get("labels") or []
    if len(names) > 1:
        choices = " or ".join(f"{path}::labels/{name}/0" for name in names)
        raise VolumeError(f"{path} has the label images {', '.join(map(str, names))}: say which one, as {choices}")
    if not names:
        return None
    scales = _described(labels[names[0]]).get("multiscales") or [{"datasets": [{"path": "0"}]}]
    return f"labels/{names[0]}/{scales[0]['datasets'][0]['path']}"


def _described(group: Any) -> dict[str, Any]:
    """OME-Zarr's attributes of a group, {} where there are none."""
    attributes: dict[str, Any] = dict(group.attrs) if isinstance(group, zarr.Group) else {}
    ome: Any = attributes.get("ome", attributes)
    return ome
