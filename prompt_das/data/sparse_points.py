"""The sparse points of the target volumes: given in a file, registered with a volume, or drawn from its labels once."""

from __future__ import annotations

import logging
from operator import itemgetter
from pathlib import Path
from typing import Any

from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.data.datasets import ensure_registered
from prompt_das.data.slices import open_image_volume, read_labels
from prompt_das.ops.points import NEGATIVE
from prompt_das.volumes.point_files import (
    SlicePoints,
    read_clicks,
    read_points,
    read_provenance,
    sample_dataset_points,
    write_points,
)

from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

logger = logging.getLogger(__name__)


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
        ratio, seed: what is drawn, see :func:`~prompt_das.volumes.point_files.sample_dataset_points`.
        corrupt: slices whose labels cannot be read get no points, as far as it allows for them.
    """
    points = {}
    if file and len(names) > 1:
        raise ValueError(
            f"DATASETS.SPARSE_POINTS.FILE {file} is of one volume, but DATASETS.TARGET names several; "
            "describe each volume with its own points in YAML instead"
        )
    ensure_registered(names)
    for name in names:
        slices = DatasetCatalog.get(name)
        kept = Path(output_dir) / f"sparse_points_{name}.json"
        chosen = file or MetadataCatalog.get(name).get("points") or kept
        if chosen is kept and kept.exists():
            require_same_source(kept, dataset=name, ratio=ratio, seed=seed)
        elif chosen is kept and comm.is_main_process():
            if slices[0]["label_file_name"] is None:
                raise ValueError(
                    f"{name} has neither points nor labels to draw them from; set DATASETS.SPARSE_POINTS.FILE, "
                    "or RATIO 0 for the unsupervised mode"
                )
            labeled = ({**dataset_dict, "labels": labels} for dataset_dict, labels in corrupt.read(slices, read_labels))
            drawn = sample_dataset_points(labeled, ratio, seed, itemgetter("labels"))
            write_points(kept, drawn, dataset=name, ratio=ratio, seed=seed)
        comm.synchronize()
        volume = open_image_volume(slices[0])
        depth, height, width = volume.shape
        points[name] = read_points(chosen, volume.slice_names, num_slices=depth, size=(height, width))
        number = sum(len(points[name].get(dataset_dict["slice"], ())) for dataset_dict in slices)
        logger.info("%s: %d sparse points on %d slices, from %s", name, number, len(slices), chosen)
    return points


def get_negative_clicks(cfg: CfgNode) -> dict[str, SlicePoints]:
    """The negative clicks of each target dataset that comes with a file of points, (N, 2) of each slice."""
    ensure_registered(cfg.DATASETS.TARGET)
    clicks: dict[str, SlicePoints] = {}
    for name in cfg.DATASETS.TARGET:
        file = cfg.DATASETS.SPARSE_POINTS.FILE or MetadataCatalog.get(name).get("points")
        if not file or cfg.DATASETS.SPARSE_POINTS.RATIO == 0:
            continue
        volume = open_image_volume(DatasetCatalog.get(name)[0])
        of_slices = read_clicks(file, volume.slice_names, num_slices=volume.shape[0], size=volume.shape[1:])
        clicks[name] = {z: one[one[:, 2] == NEGATIVE, :2] for z, one in of_slices.items()}
        number = sum(map(len, clicks[name].values()))
        logger.info("%s: %d negative clicks, from %s", name, number, file)
    return clicks


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
