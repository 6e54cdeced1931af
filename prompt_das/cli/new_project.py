"""Make a project of an unlabeled volume and a few clicks, see :mod:`prompt_das.engine.project`."""

from __future__ import annotations

import argparse

from prompt_das.config.find import find_config
from prompt_das.engine.project import create_project


def run(args: argparse.Namespace) -> None:
    project = create_project(
        args.folder,
        args.name or args.folder.resolve().name,
        args.volume,
        base=find_config(args.base),
        points=args.points,
        source=args.source,
        weights=args.weights,
        dataset=args.dataset,
        voxel_size=args.voxel_size,
        intensity_range=args.intensity_range,
    )
    points = f"{project.num_points} points" if args.points else "no points: unsupervised"
    print(f"{project.config}: adapts to {project.volume} ({points}). Next:\n")
    print("\n".join(f"  {command}" for command in project.commands()))
    print(f"\nThen open {project.weights} in napari.")
