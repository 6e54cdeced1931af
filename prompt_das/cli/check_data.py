"""Check data before a long run."""

from __future__ import annotations

import argparse

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.datasets import register_config_volumes, register_volumes_from_yaml
from prompt_das.data.verify import ERROR, Report, check_dataset, worst

from tabulate import tabulate
from tqdm import tqdm

SHOWN = 20  # problems of each kind and data set


def run(args: argparse.Namespace) -> None:
    names = names_of(args)
    if not names:
        raise ValueError("nothing to check: add --config-file, --dataset or --volume")
    if args.points and len(names) > 1:
        raise ValueError(f"--points belong to one volume, not to {', '.join(names)}")

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
    if errors:
        raise SystemExit(f"{errors} errors")
    print("no errors")


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
