"""The sparse points of the target volumes: given in a file, registered with a volume, or drawn from its labels once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.data.datasets import ensure_registered
from prompt_das.data.slices import open_image_volume, read_labels
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import NEGATIVE, instance_centers, sample_sparse_points
from prompt_das.volumes.point_files import SlicePoints, read_clicks, read_points, read_provenance, write_points

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def sample_dataset_points(
    dataset_dicts: Iterable[Mapping[str, Any]],
    ratio: float,
    seed: int,
    read_labels: Callable[[Any], np.ndarray],
) -> SlicePoints:
    """Sparse points of a data set: ceil(ratio · n) of the n instances of every slice (Prompt-DAS, Sec. 3.1).

    The instances are the 8-connected components of the slice's binary mask. Each slice has its own generator, seeded
    by (seed, z): adding or removing slices does not change the points of the others.

    Args:
        dataset_dicts: slices of one volume in Detectron2's dataset format, with the key "slice".
        ratio: fraction of the instances that get a point, 0 to 1.
        seed: non-negative.
        read_labels: maps one of ``dataset_dicts`` to its label map (H, W).
    """
    slice_points: SlicePoints = {}
    for dataset_dict in dataset_dicts:
        z = int(dataset_dict["slice"])
        if z in slice_points:
            raise ValueError(f"slice {z} comes twice: sparse points are of one volume, each slice once")
        _, centers = instance_centers(connected_components(read_labels(dataset_dict) > 0))
        slice_points[z] = sample_sparse_points(centers, ratio, np.random.default_rng([seed, z]))
    return slice_points


def find_points_file(name: str, file: str | Path | None = None) -> str | Path | None:
    """The file of points of a registered data set: ``file`` if it is given, else its own; None if it has none."""
    return file or MetadataCatalog.get(name).get("points")


def read_dataset_points(file: str | Path, dataset_dict: dict[str, Any]) -> SlicePoints:
    """Read the positive points of a file, checked against the volume of a slice.

    Raises as :func:`~prompt_das.volumes.point_files.read_clicks`.
    """
    volume = open_image_volume(dataset_dict)
    depth, height, width = volume.shape
    return read_points(file, volume.slice_names, num_slices=depth, size=(height, width))


def require_one_target(file: str, names: Sequence[str]) -> None:
    """Raise ValueError if ``DATASETS.SPARSE_POINTS.FILE`` would be the points of several target volumes."""
    if file and len(names) > 1:
        raise ValueError(
            f"DATASETS.SPARSE_POINTS.FILE {file} is of one volume, but DATASETS.TARGET names several; "
            "describe each volume with its own points in YAML instead"
        )


def require_labels(name: str, slices: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError for a target volume without labels, whose points would have to be drawn from them."""
    if slices[0]["label_file_name"] is None:
        raise ValueError(
            f"DATASETS.TARGET {name} has neither points nor labels to draw them from; set "
            "DATASETS.SPARSE_POINTS.FILE, or RATIO 0 for the unsupervised mode"
        )


def _from_config(cfg: CfgNode, corrupt: CorruptSlices | None = None) -> dict[str, Any]:
    node = cfg.DATASETS.SPARSE_POINTS
    return {
        "names": cfg.DATASETS.TARGET,
        "file": node.FILE,
        "ratio": node.RATIO,
        "seed": node.SEED,
        "output_dir": cfg.OUTPUT_DIR,
        "corrupt": corrupt or CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES),
    }


@configurable(from_config=_from_config)
def get_sparse_points(
    *, names: tuple[str, ...], file: str, ratio: float, seed: int, output_dir: str | Path, corrupt: CorruptSlices
) -> dict[str, SlicePoints]:
    """The sparse points of every target dataset, for the weakly supervised mode.

    They come from ``file``, else from the points that the dataset was registered with, else they are drawn from its
    labels once and kept in ``output_dir``, where every later run of the folder reads them. Also called as
    ``get_sparse_points(cfg)`` or ``get_sparse_points(cfg, corrupt)``.

    Args:
        names: of the target datasets.
        file: ``DATASETS.SPARSE_POINTS.FILE``; "" if there is none.
        ratio, seed: what is drawn, see :func:`sample_dataset_points`.
        corrupt: slices whose labels cannot be read get no points, as far as it allows for them.
    """
    points = {}
    require_one_target(file, names)
    ensure_registered(names)
    for name in names:
        slices = DatasetCatalog.get(name)
        given, drawn = find_points_file(name, file), Path(output_dir) / f"sparse_points_{name}.json"
        if not given and drawn.exists():
            require_same_source(drawn, dataset=name, ratio=ratio, seed=seed)
        elif not given and comm.is_main_process():
            require_labels(name, slices)
            labeled = ({**dataset_dict, "labels": labels} for dataset_dict, labels in corrupt.read(slices, read_labels))
            sampled = sample_dataset_points(labeled, ratio, seed, itemgetter("labels"))
            write_points(drawn, sampled, dataset=name, ratio=ratio, seed=seed)
        comm.synchronize()
        chosen = given or drawn
        points[name] = read_dataset_points(chosen, slices[0])
        number = sum(len(points[name].get(dataset_dict["slice"], ())) for dataset_dict in slices)
        logger.info("%s: %d sparse points on %d slices, from %s", name, number, len(slices), chosen)
    return points


def _clicks_from_config(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.DATASETS.SPARSE_POINTS  # RATIO 0 is the unsupervised mode, which uses no clicks of a user
    return {"names": cfg.DATASETS.TARGET if node.RATIO > 0 else (), "file": node.FILE}


@configurable(from_config=_clicks_from_config)
def get_negative_clicks(*, names: tuple[str, ...], file: str) -> dict[str, SlicePoints]:
    """The negative clicks of each target dataset that comes with a file of points, (N, 2) of each slice.

    Arguments as of :func:`get_sparse_points`. Also called as ``get_negative_clicks(cfg)``.
    """
    ensure_registered(names)
    negative: dict[str, SlicePoints] = {}
    for name in names:
        chosen = find_points_file(name, file)
        if not chosen:
            continue
        volume = open_image_volume(DatasetCatalog.get(name)[0])
        clicks = read_clicks(chosen, volume.slice_names, num_slices=volume.shape[0], size=volume.shape[1:])
        negative[name] = {z: of_slice[of_slice[:, 2] == NEGATIVE, :2] for z, of_slice in clicks.items()}
        number = sum(map(len, negative[name].values()))
        logger.info("%s: %d negative clicks, from %s", name, number, chosen)
    return negative


def require_same_source(path: Path, **settings: Any) -> None:
    """Raise ValueError if the points in ``path`` were drawn with another ``dataset``, ``ratio`` or ``seed``."""
    stored = read_provenance(path)
    changes = [
        f"{key} {stored[key]!r}, not {value!r}" for key, value in settings.items() if stored.get(key, value) != value
    ]
    if changes:
        raise ValueError(
            f"{path} holds sparse points that were drawn with {', '.join(changes)} as DATASETS.SPARSE_POINTS has "
            "it now; set that back, remove the file, or use another OUTPUT_DIR"
        )
