"""Measure this project on this machine, beside others that do the same. The result is a table, and JSON.

    python -m benchmarks metrics
    python -m benchmarks model --size quick paper --output output/benchmark/model.json
    python -m benchmarks gpu

Times are medians with the fastest and the slowest; peers take turns in one process. No data is needed, but for
click-rounds, which takes a labeled volume. What we measured is in docs/PERFORMANCE.md and docs/RESULTS.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import (
    Benchmark,
    click_rounds,
    gpu,
    instances,
    large_slices,
    linking,
    loader,
    measure,
    metrics,
    model,
    pipeline,
    predictor,
    step,
    volume,
    window,
)

import torch

BENCHMARKS: dict[str, Benchmark] = {
    "model": model,
    "step": step,
    "metrics": metrics,
    "instances": instances,
    "window": window,
    "loader": loader,
    "volume": volume,
    "large-slices": large_slices,
    "linking": linking,
    "pipeline": pipeline,
    "predictor": predictor,
    "click-rounds": click_rounds,
    "gpu": gpu,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, benchmark in BENCHMARKS.items():
        text = benchmark.__doc__ or ""
        command = commands.add_parser(name, help=text.partition("\n")[0], description=text)
        command.add_argument("--repeats", type=int, default=5, help="measurements of each time (default: %(default)s)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, help="of torch; its own choice by default")
        command.add_argument("--output", type=Path, help="JSON file")
        benchmark.add_arguments(command)
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, not {args.repeats}")
    if args.threads:
        torch.set_num_threads(args.threads)

    machine = measure.machine(args.seed)
    results = BENCHMARKS[args.command].run(args)
    print(f"\n{measure.describe(machine)}\n\n{BENCHMARKS[args.command].report(results)}")
    if args.output:
        measure.write(args.output, machine, args.command, results)
    if conclude := getattr(BENCHMARKS[args.command], "conclude", None):
        conclude(args, machine, results)


if __name__ == "__main__":
    main()
