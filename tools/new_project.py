#!/usr/bin/env python
"""From an unlabelled volume and a few clicks to a training: write a folder that tools/train_net.py can begin with.

    python tools/new_project.py liver/ --volume scans.tif --points points.json

POINTS is what the napari plugin saves, or any file that the project reads (datasets/README.md); without it the
adaptation is unsupervised. The folder gets the description of the volume and a config, a leaf on --base.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import prompt_das  # noqa: F401  (fills the registries; must come before Detectron2)
from prompt_das.engine.project import create_project

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the new project")
    parser.add_argument("--volume", required=True, help="the images: a folder of slices, TIFF, HDF5, Zarr")
    parser.add_argument("--points", help="clicks on some of its slices")
    parser.add_argument("--name", help="of the volume; default: that of the folder")
    parser.add_argument(
        "--base", default=CONFIGS / "rat2human_wda.yaml", help="config to build on; default: %(default)s"
    )
    parser.add_argument("--source", help="labelled volume: a registered name, or its YAML; default: that of --base")
    parser.add_argument("--weights", help="a trained source model, to begin with; default: train one first")
    parser.add_argument("--dataset", help="the array inside an HDF5 or Zarr file, if it has several")
    parser.add_argument("--voxel-size", nargs=3, type=float, metavar=("Z", "Y", "X"), help="in nm")
    parser.add_argument("--intensity-range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="grey values 0 and 255")
    args = parser.parse_args(arguments)
    try:
        project = create_project(
            args.folder,
            args.name or args.folder.resolve().name,
            args.volume,
            base=args.base,
            points=args.points,
            source=args.source,
            weights=args.weights,
            dataset=args.dataset,
            voxel_size=args.voxel_size,
            intensity_range=args.intensity_range,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    points = f"{project.num_points} points" if args.points else "no points: unsupervised"
    print(f"{project.config}: adapts to {project.volume} ({points}). Next:\n")
    print("\n".join(f"  {command}" for command in project.commands()))
    print(f"\nThen open {project.weights} in napari.")


if __name__ == "__main__":
    main()
