"""Files that this package has written, opened by napari: File > Open, drag and drop.

A path is claimed only if it is recognizably ours. What needs torch is imported when a file is read, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[Any], list[LayerData]]
Paths = str | Sequence[str]

HEAD = 4096  # bytes of a file of points in which its format is named
MAPS: dict[str, dict[str, Any]] = {
    "probability": {"colormap": "magma", "opacity": 0.5, "contrast_limits": (0, 255), "visible": False},
    "density": {"colormap": "viridis", "opacity": 0.5, "contrast_limits": (0, 255), "visible": False},
}


def get_result_reader(path: Paths) -> Reader | None:
    """A reader for the OME-Zarr of a whole volume; None for other folders."""
    return read_result if isinstance(path, str) and _is_result(Path(path)) else None


def get_points_reader(path: Paths) -> Reader | None:
    """A reader for our JSON of points; None for other files."""
    return read_points if isinstance(path, str) and _is_points(Path(path)) else None


def read_result(path: Any) -> list[LayerData]:
    """Images (hidden) and labels of an OME-Zarr, read where they are looked at, at their place and voxel size."""
    from prompt_das.napari.files import lazy_stack
    from prompt_das.volumes.open_volume import open_volume

    import zarr

    path = Path(path)
    root: Any = zarr.open_group(str(path), mode="r")
    labels = [f"labels/{name}" for name in root.get("labels", ())]
    layers = []
    for name in [*(name for name in MAPS if name in root), *labels]:
        volumes = [open_volume(path, level) for level in _levels(root[name], name)]
        data = [lazy_stack(volume) for volume in volumes]
        about: dict[str, Any] = {"name": f"{path.stem} {Path(name).name}", **MAPS.get(name, {"opacity": 0.5})}
        if volumes[0].voxel_size is not None:
            about |= {"scale": volumes[0].voxel_size, "units": ("nm",) * 3}
        several = len(data) > 1
        about["multiscale"] = several
        layers.append((data if several else data[0], about, "labels" if name in labels else "image"))
    return layers


def read_points(path: Any) -> list[LayerData]:
    """Positive and negative points in a layer each, in voxels: (slice, row, column)."""
    from prompt_das.napari.image_session import LABEL, NEGATIVE_PROMPTS, POINT_SIZE, PROMPTS
    from prompt_das.napari.layers import to_positions
    from prompt_das.volumes.point_files import read_clicks

    import numpy as np

    path, clicks = Path(path), read_clicks(path)
    layers = []
    for kind, style in (("prompts", PROMPTS), ("negative prompts", NEGATIVE_PROMPTS)):
        label = style["metadata"][LABEL]
        positions = [to_positions(of_slice[of_slice[:, 2] == label, :2], z) for z, of_slice in clicks.items()]
        data = np.concatenate([np.zeros((0, 3)), *positions])
        if len(data) or kind == "prompts":
            layers.append((data, {"name": f"{path.stem} {kind}", "size": POINT_SIZE, **style}, "points"))
    return layers


def _is_result(folder: Path) -> bool:
    """Whether the attributes of a Zarr group are those of ours."""
    attributes = _json(folder / ".zattrs") or _json(folder / "zarr.json").get("attributes")
    return isinstance(attributes, dict) and "prompt_das" in attributes


def _is_points(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b"prompt_das/points" in stream.read(HEAD)
    except OSError:
        return False


def _json(file: Path) -> dict[str, Any]:
    """The object in a file of JSON; {} if there is no such file, or something else in it."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _levels(image: Any, name: str) -> list[str]:
    """Paths of the arrays of an image, the finest first; an array that is none of several levels is the only one."""
    if hasattr(image, "shape"):
        return [name]
    attributes = dict(image.attrs)
    (scales, *_) = attributes.get("ome", attributes)["multiscales"]
    return [f"{name}/{level['path']}" for level in scales["datasets"]]
