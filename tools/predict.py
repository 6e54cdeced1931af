#!/usr/bin/env python
"""Segment a volume of any size: probability, centre density and instances of every slice, or linked to 3-D.

    tools/predict.py --weights output/rat2human_wda/model_final.pth --input scans/ --output result.zarr
    tools/predict.py --weights my_model.safetensors --input my_lab.yaml --output result.tif \\
        --points clicks.csv --table instances.csv

INPUT is a folder of slices, a TIFF, HDF5 or Zarr volume, a single image, a YAML file that describes a volume, or a
registered name such as lucchi_test. OUTPUT is OME-Zarr, HDF5 or TIFF by its ending. It appears when it is complete;
stopped before, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
from collections.abc import Sequence
from pathlib import Path

import prompt_das  # noqa: F401  (fills the registries; must come before Detectron2)
from prompt_das.inference.volume.executors import Executor, dask_executor, run_here
from prompt_das.inference.volume.predict_volume import predict_volume

from detectron2.utils.logger import setup_logger

NAMED = 5  # skipped slices


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a training checkpoint (.pth) or a .safetensors file")
    parser.add_argument("--input", required=True, help="the volume, see above")
    parser.add_argument("--output", required=True, type=Path, help="*.zarr, *.h5 or *.tif")
    parser.add_argument("--points", help="prompts: CSV with z, y, x (a napari export), or JSON; default: the YAML's")
    parser.add_argument("--table", type=Path, help="CSV with one row for each instance")
    parser.add_argument("--instances", choices=["volume", "slice"], default="volume", help="3-D, or of each slice")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the probability of foreground")
    parser.add_argument("--min-size", type=int, help="remove instances of at most so many voxels; default: 15")
    parser.add_argument("--no-density", action="store_true", help="without the centre-point head, which takes its time")
    parser.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="at slices that cannot be read")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT, or an unfinished one")
    parser.add_argument("--dataset", help="the array inside an HDF5 or Zarr file, if it has several")
    parser.add_argument("--intensity-range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="grey values 0 and 255")
    parser.add_argument("--voxel-size", nargs=3, type=float, metavar=("Z", "Y", "X"), help="in nm")
    parser.add_argument("--config-file", help="default: the one in the weights or beside them")
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; default: the config's, or cpu where there is no GPU")
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="tcp://HOST:PORT",
        help="predict on a Dask cluster: a scheduler's address, or nothing for processes on this machine",
    )
    parser.add_argument("--workers", type=int, help="of a local Dask cluster; default: one for each GPU, or core")
    parser.add_argument("opts", nargs="*", help="overrides of the config at the end: TEST.WINDOW.STRIDE 128 ...")
    args = parser.parse_args(arguments)

    setup_logger(name="prompt_das", abbrev_name="prompt_das")
    device = ["MODEL.DEVICE", args.device] if args.device else []
    try:
        with contextlib.ExitStack() as stack:
            executor: Executor = run_here
            if args.dask:
                address = None if args.dask == "local" else args.dask
                executor = stack.enter_context(dask_executor(address, args.workers))
            result = predict_volume(
                args.weights,
                args.input,
                args.output,
                points=args.points,
                linked=args.instances == "volume",
                threshold=args.threshold,
                min_size=args.min_size,
                density=not args.no_density,
                table=args.table,
                on_error=args.on_error,
                overwrite=args.overwrite,
                dataset=args.dataset,
                intensity_range=args.intensity_range,
                voxel_size=args.voxel_size,
                config_file=args.config_file,
                opts=[*args.opts, *device],
                executor=executor,
            )
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        parser.exit(1, f"error: {explain(error, args.output)}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\nstopped; the same command goes on in {args.output}.part\n")
    if result is None:
        print(f"{args.output} was complete")
        return
    print(f"{args.output}: {len(result.instances)} instances")
    if result.skipped:
        print(f"{len(result.skipped)} slices were skipped and are empty:")
        problems = list(result.skipped.values())
        print("\n".join(problems[:NAMED] + ["..."] * (len(problems) > NAMED)))


def explain(error: Exception, output: Path) -> str:
    """What went wrong, and for a full disk how to go on."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no room on the disk ({error}); make room, and the same command goes on in {output}.part"
    return str(error)


if __name__ == "__main__":
    main()
