#!/usr/bin/env python
"""Make a file of sparse centre points: drawn from the labels of a volume, or converted from another tool's file.

    tools/sample_points.py --dataset lucchi_train --ratio 0.15 --seed 0 --output points.json
    tools/sample_points.py --volume my_volume.yaml --output points.json
    tools/sample_points.py --dataset lucchi_train --from annotations.csv --output points.json

Every run that reads the file (DATASETS.SPARSE_POINTS.FILE, or `points` of a volume's YAML) trains on the same points.
--from reads CSV with the columns axis-0, axis-1, axis-2 (napari) or z, y, x, WDA-Net's JSON, and this tool's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import prompt_das  # noqa: F401  (must come before Detectron2)
from prompt_das.data.datasets import ensure_registered, register_volumes_from_yaml
from prompt_das.data.slices import open_image_volume, read_labels
from prompt_das.volumes.point_files import SlicePoints, read_points, sample_dataset_points, write_points

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help='registered name, or a part of one as "lucchi_train[0:27]"')
    parser.add_argument("--volume", help="YAML that describes a volume of your own")
    parser.add_argument("--ratio", type=float, default=0.15, help="share of a slice's instances (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="source", metavar="FILE", help="convert this file instead of drawing points")
    parser.add_argument("--output", required=True, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.dataset is None and args.volume is None:
        parser.error("say which volume: --dataset NAME or --volume YAML")
    return args


def choose_dataset(dataset: str | None, volume: str | None) -> str:
    """The one data set that the arguments mean."""
    names = register_volumes_from_yaml(volume) if volume else []
    if dataset is None:
        if len(names) != 1:
            raise ValueError(f"{volume} has the splits {', '.join(names)}; choose one with --dataset")
        return names[0]
    ensure_registered([dataset])
    return dataset


def convert(path: str, entries: list[dict[str, Any]]) -> SlicePoints:
    """The points of a file that lie on the slices of a data set, checked against their size."""
    volume = open_image_volume(entries[0])
    points = read_points(path, volume.slice_names, num_slices=volume.shape[0], size=volume.shape[1:])
    wanted = {entry["slice"] for entry in entries}
    return {z: p for z, p in points.items() if z in wanted}


def share_inside(points: SlicePoints, entries: list[dict[str, Any]]) -> float:
    """Share of the points that lie on an instance."""
    hits = [np.zeros(0, dtype=bool)]
    for entry in entries:
        if entry["slice"] in points:
            last = (entry["width"] - 1, entry["height"] - 1)
            column, row = np.minimum(points[entry["slice"]].astype(int), last).T
            hits.append(read_labels(entry)[row, column] > 0)
    return float(np.concatenate(hits).mean())


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        name = choose_dataset(args.dataset, args.volume)
        entries = DatasetCatalog.get(name)
        labelled = entries[0]["label_file_name"] is not None
        if args.source:
            points = convert(args.source, entries)
            write_points(args.output, points, dataset=name)
        elif labelled:
            progress = tqdm(entries, desc=name, unit="slice")
            points = sample_dataset_points(progress, args.ratio, args.seed, read_labels)
            write_points(args.output, points, dataset=name, ratio=args.ratio, seed=args.seed)
        else:
            raise ValueError(f"{name} has no labels to draw points from; convert points set by hand with --from FILE")
    except (OSError, ValueError) as error:
        raise SystemExit(f"sample_points.py: {error}") from error
    count = sum(map(len, points.values()))
    print(f"{args.output}: {count} points on {sum(len(p) > 0 for p in points.values())} of {len(entries)} slices")
    if args.source and labelled and count:
        print(f"{share_inside(points, entries):.1%} of them lie on a labelled instance")


if __name__ == "__main__":
    main()
