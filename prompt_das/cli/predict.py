"""Segment a volume of any size."""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
from pathlib import Path

from prompt_das.cli.input_volume import input_volume, overrides
from prompt_das.engine.outline import outline_of_diameter
from prompt_das.inference.volume.executors import Executor, dask_executor, run_here
from prompt_das.inference.volume.predict_volume import predict_volume
from prompt_das.inference.volume.settings import VolumeSettings

from detectron2.utils.logger import setup_logger

NAMED = 5  # skipped slices


def run(args: argparse.Namespace) -> None:
    setup_logger(name="prompt_das", abbrev_name="prompt_das")
    try:
        with contextlib.ExitStack() as stack:
            executor: Executor = run_here
            if args.dask:
                address = None if args.dask == "local" else args.dask
                executor = stack.enter_context(dask_executor(address, args.workers, args.patience))
            source, opts = input_volume(args), overrides(args)
            network = {"config_file": args.config_file, "plugins": args.plugin}
            opts += outline_of_diameter(args.weights, source, opts=opts, **network)
            settings = VolumeSettings(
                linked=args.instances == "volume",
                threshold=args.threshold,
                min_size=args.min_size,
                density=not args.no_density,
                on_error=args.on_error,
                instances_from=args.instances_from,
            )
            result = predict_volume(
                args.weights,
                source,
                args.output,
                settings,
                table=args.table,
                ome_version=args.ome_version,
                overwrite=args.overwrite,
                opts=opts,
                executor=executor,
                **network,
            )
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on in {args.output}.part", file=sys.stderr)
        raise SystemExit(130) from None
    except (RuntimeError, KeyError, OSError) as error:
        raise ValueError(explain(error, args.output)) from error
    if result is None:
        print(f"{args.output} was complete")
        return
    where = "" if result.region is None else f" in the region {result.region} (z,y,x) of {source.volume}"
    print(f"{args.output}: {result.count} instances{where}")
    if result.skipped:
        print(f"{len(result.skipped)} slices were skipped and are empty:")
        problems = list(result.skipped.values())
        print("\n".join(problems[:NAMED] + ["..."] * (len(problems) > NAMED)))


def explain(error: Exception, output: Path) -> str:
    """What went wrong, and for a full disk how to go on."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no room on the disk ({error}); make room, and the same command goes on in {output}.part"
    return str(error)
