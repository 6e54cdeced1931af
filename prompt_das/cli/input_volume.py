"""The volume that a command is given, from its arguments."""

from __future__ import annotations

import argparse

from prompt_das.inference.volume.source import VolumeSource


def input_volume(args: argparse.Namespace) -> VolumeSource:
    """Where the input is, of a command with --input, --points and the options that describe a volume."""
    return VolumeSource(
        args.input,
        dataset=args.dataset,
        intensity_range=args.intensity_range,
        voxel_size=args.voxel_size,
        points=args.points,
        diameter=args.diameter,
        roi=getattr(args, "roi", None),
    )


def overrides(args: argparse.Namespace) -> list[str]:
    """The overrides of the config (KEY, VALUE, ...): those at the end of the command, and --device."""
    return [*args.opts, *(["MODEL.DEVICE", args.device] if args.device else [])]
