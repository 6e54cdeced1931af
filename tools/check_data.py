#!/usr/bin/env python
"""Check data before a long run: every slice, label and point is read, and all that is wrong is said at once.

    tools/check_data.py --config-file configs/vnc2lucchi_wda.yaml
    tools/check_data.py --volume my_lab.yaml
    tools/check_data.py --dataset mitoem_rat_train mitoem_human_val

Unreadable, missing and odd slices, sizes and types, labels that are masks or have no background, points outside of the
image or of every instance, duplicates. Ends with 1 if there is an error, so that a job script can stop.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import prompt_das  # noqa: F401  (fills the registries; must come before Detectron2)
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.datasets import register_config_volumes, register_volumes_from_yaml
from prompt_das.data.verify import ERROR, Report, check_dataset, worst

from tabulate import tabulate
from tqdm import tqdm

SHOWN = 20  # problems of each kind and data set


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", help="all data sets of a training")
    parser.add_argument("--dataset", nargs="+", default=[], help="registered names")
    parser.add_argument("--volume", help="YAML that describes a volume")
    parser.add_argument("--points", help="file of points, in place of those that belong to the data set")
    parser.add_argument("--all", action="store_true", help=f"list all problems, not the first {SHOWN} of a kind")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="threads, each holds a slice")
    parser.add_argument("opts", nargs="*", help="overrides of the config: KEY VALUE ...")
    args = parser.parse_args(arguments)
    try:
        names = names_of(args)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    if not names:
        parser.error("nothing to check: give --config-file, --dataset or --volume")
    if args.points and len(names) > 1:
        parser.error(f"--points belong to one volume, not to {', '.join(names)}")

    errors = 0
    for name, points in names.items():
        report = check_dataset(
            name,
            args.points or points,
            lambda slices, total, name=name: tqdm(slices, name, total, unit="slice"),  # type: ignore[misc]
            args.workers,
        )
        show(report, everything=args.all)
        errors += report.errors
    parser.exit(errors > 0, f"{errors} errors\n" if errors else "no errors\n")


def names_of(args: argparse.Namespace) -> dict[str, str | None]:
    """The data sets that the arguments name, each once, and the file of points where the config has one."""
    names: dict[str, str | None] = {}
    if args.config_file:
        cfg = get_prompt_das_cfg(args.config_file, args.opts)
        register_config_volumes(cfg)
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST):
            names[name] = None
        for name in cfg.DATASETS.TARGET:
            names[name] = cfg.DATASETS.SPARSE_POINTS.FILE or None
    for name in (*args.dataset, *(register_volumes_from_yaml(args.volume) if args.volume else ())):
        names.setdefault(name, None)
    return names


def show(report: Report, *, everything: bool) -> None:
    print(f"\n{report.name}")
    if report.facts:
        print(tabulate(report.facts, tablefmt="plain"))
    shown = report.problems if everything else worst(report.problems, SHOWN)
    for problem in shown:
        print(f"{'ERROR  ' if problem.severity == ERROR else 'warning'}  {problem.text}")
    if len(shown) < len(report.problems):
        print(f"... and {len(report.problems) - len(shown)} more, see --all")
    if not report.problems:
        print("nothing is wrong")


if __name__ == "__main__":
    main()
