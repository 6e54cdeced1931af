"""Make a file of sparse center points: drawn from the labels of a volume, or converted from another file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prompt_das.data.datasets import ensure_registered, register_volumes_from_yaml
from prompt_das.data.slices import read_labels
from prompt_das.data.sparse_points import read_dataset_points, sample_dataset_points
from prompt_das.utils.output_paths import require_apart, require_replaceable
from prompt_das.volumes.point_files import SlicePoints, write_points

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm


def choose_dataset(dataset: str | None, volume: str | None) -> str:
    """The one data set that the arguments mean."""
    if dataset is None and volume is None:
        raise ValueError("which volume? Add --dataset NAME or --volume YAML")
    names = register_volumes_from_yaml(volume) if volume else []
    if dataset is None:
        if len(names) != 1:
            raise ValueError(f"{volume} has the splits {', '.join(names)}; choose one with --dataset")
        return names[0]
    ensure_registered([dataset])
    return dataset


def convert(path: str, slices: list[dict[str, Any]]) -> SlicePoints:
    """The points of a file that lie on the slices of a data set, checked against their size."""
    points = read_dataset_points(path, slices[0])
    wanted = {dataset_dict["slice"] for dataset_dict in slices}
    return {z: p for z, p in points.items() if z in wanted}


def ratio_inside(points: SlicePoints, slices: list[dict[str, Any]]) -> float:
    """Ratio of the points that lie on an instance."""
    hits = [np.zeros(0, dtype=bool)]
    for dataset_dict in slices:
        if dataset_dict["slice"] in points:
            last = (dataset_dict["width"] - 1, dataset_dict["height"] - 1)
            column, row = np.minimum(points[dataset_dict["slice"]].astype(int), last).T
            hits.append(read_labels(dataset_dict)[row, column] > 0)
    return float(np.concatenate(hits).mean())


def run(args: argparse.Namespace) -> None:
    name = choose_dataset(args.dataset, args.volume)
    slices = DatasetCatalog.get(name)
    read = {Path(path) for d in slices[:1] for path in (d.get("file_name"), d.get("label_file_name")) if path}
    read |= {Path(path) for path in (args.source, args.volume) if path}
    require_apart([Path(args.output)], read)
    require_replaceable(Path(args.output), overwrite=args.overwrite)
    labeled = slices[0]["label_file_name"] is not None
    if args.source:
        points = convert(args.source, slices)
        write_points(args.output, points, dataset=name)
    elif labeled:
        progress = tqdm(slices, desc=name, unit="slice")
        points = sample_dataset_points(progress, args.ratio, args.seed, read_labels)
        write_points(args.output, points, dataset=name, ratio=args.ratio, seed=args.seed)
    else:
        raise ValueError(f"{name} has no labels to draw points from; convert points set by hand with --from FILE")
    count = sum(map(len, points.values()))
    print(f"{args.output}: {count} points on {sum(len(p) > 0 for p in points.values())} of {len(slices)} slices")
    if args.source and labeled and count:
        print(f"{ratio_inside(points, slices):.1%} of them lie on a labeled instance")
