"""What it takes to link instances at the borders of blocks: the one step of a large volume that one process does.

Blocks of 64 slices with so many regions in each slice that two blocks share; each region is a part of both. What lies
inside the blocks is not there when they are linked.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from typing import Any

from prompt_das.inference.volume.borders import Border, link_borders
from prompt_das.inference.volume.instances import MOST_SLICES
from prompt_das.inference.volume.linking import BlockComponents, Components
from prompt_das.ops.connected_components import MIN_INSTANCE_SIZE

import numpy as np
from tabulate import tabulate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--regions", nargs="+", type=int, default=[20_000, 100_000], help="of a shared slice")
    parser.add_argument("--blocks", type=int, default=11, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    for regions in args.regions:
        tracemalloc.start()
        borders = [make_border(number, args.blocks, regions) for number in range(args.blocks)]
        start = time.process_time()
        link_borders(borders, MIN_INSTANCE_SIZE)
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        parts = sum(len(border.before) for border in borders)
        results.append({"parts": parts, "bytes of a part": peak / parts, "seconds of a million": seconds / parts * 1e6})
    return results


def report(results: list[dict[str, Any]]) -> str:
    rows = [[r["parts"], f"{r['bytes of a part']:.0f}", f"{r['seconds of a million']:.2f}"] for r in results]
    header = ["parts at borders", "peak memory, bytes a part", "processor, s a million parts"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def make_border(number: int, blocks: int, regions: int) -> Border:
    """The border of one of so many blocks, with so many regions in each slice that it shares."""
    below, above = regions * (number > 0), regions * (number < blocks - 1)
    count = below + above
    low = np.stack([np.full(count, number * MOST_SLICES), np.arange(count), np.arange(count)], axis=-1)
    size = np.full(count, 1000)
    components = Components(
        first=number * 10**12 + np.arange(count),
        size=size,
        low=low,
        high=low + 10,
        index_sum=low * 1000.0,
        probability_sum=size * 200.0,
    )
    pairs = np.arange(1, below + 1), np.arange(below + 1, count + 1)
    return Border(BlockComponents(components, *pairs), regions, np.arange(count))
