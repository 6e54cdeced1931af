"""The rows of the paper's tables on a pair of domains: train what is missing, evaluate, write one table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.config.find import CONFIGS

from tabulate import tabulate

METRICS = ("Dice", "AJI", "PQ")
SWITCHES = ("POINT_PSEUDO_LABELS", "MASK_PSEUDO_LABELS", "PROMPTS", "CONTRASTIVE")


@dataclass(frozen=True)
class Run:
    """One training: a folder name, the mode whose config it uses, and what it overrides."""

    name: str
    mode: str
    overrides: tuple[str, ...] = ()

    @property
    def adapts(self) -> bool:
        return self.mode in ("uda", "wda")


def ablation(name: str, *on: str) -> Run:
    """A weakly supervised run with only some components of the method switched on."""
    values = [(f"DOMAIN_ADAPT.USE_{switch}", str(switch in on)) for switch in SWITCHES]
    return Run(name, "wda", tuple(word for pair in values for word in pair))


SOURCE, UDA, WDA, ORACLE = (Run(mode, mode) for mode in ("source", "uda", "wda", "oracle"))
Row = tuple[str, Run, str]  # title, training, prompts at test

MAIN: list[Row] = [
    ("Source", SOURCE, "0%"),
    ("Source+", SOURCE, "100%"),
    ("Prompt-DAS (0 %)", UDA, "0%"),
    ("Prompt-DAS (0 %)+", UDA, "100%"),
    ("Prompt-DAS (15 %)", WDA, "0%"),
    ("Prompt-DAS (15 %)+", WDA, "100%"),
    ("Supervised", ORACLE, "0%"),
]
POINTS, MASKS, PROMPTS, CONTRASTIVE = SWITCHES
ABLATION: list[Row] = [
    ("Source", SOURCE, "0%"),
    ("+ point pseudo-labels", ablation("ablation_points", POINTS), "0%"),
    ("+ mask pseudo-labels", ablation("ablation_masks", MASKS), "0%"),
    ("+ both", ablation("ablation_both", POINTS, MASKS), "0%"),
    ("+ masks, prompts", ablation("ablation_masks_prompts", MASKS, PROMPTS), "0%"),
    ("+ both, prompts", ablation("ablation_both_prompts", POINTS, MASKS, PROMPTS), "0%"),
    ("+ both, prompts, contrastive", WDA, "0%"),
    ("Supervised", ORACLE, "0%"),
]
TEST_PROMPTS: list[Row] = [
    ("Source", SOURCE, "0%"),
    *[(f"15 % model, {ratio} prompts", WDA, ratio) for ratio in ("0%", "15%", "50%", "100%")],
    ("Supervised", ORACLE, "0%"),
]


class Experiment:
    """All runs of a pair at a size, below one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.pair, self.size, self.opts = args.pair, args.size, tuple(args.opts)
        self.output = args.output or Path("output") / "reproduce" / f"{args.pair}_{args.size}"
        self.threads = args.threads
        self.folder = CONFIGS / "quick" if args.size == "quick" else CONFIGS
        ratios = "(0.0, 0.15, 0.5, 1.0)"
        self.common = ["TEST.PROMPT_RATIOS", ratios]
        if args.size == "paper":  # the paper's test protocol
            self.common += ["TEST.WINDOW.STRIDE", "128", "TEST.WINDOW.ROTATIONS", "4"]

    def path(self, run: Run, seed: int) -> Path:
        return self.output / f"seed{seed}" / run.name

    def result_file(self, run: Run, seed: int) -> Path:
        return self.path(run, seed) / "result.json"

    def train(self, run: Run, seed: int) -> None:
        """Train and test a run, unless that has been done; its result is what the test wrote."""
        if self.result_file(run, seed).exists():
            return
        folder = self.path(run, seed)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "prompt_das_cli", "train", "--resume", "--config-file"]
        command += [str(self.folder / f"{self.pair}_{run.mode}.yaml"), "OUTPUT_DIR", str(folder), "SEED", str(seed)]
        if run.adapts:
            command += ["MODEL.WEIGHTS", str(self.path(SOURCE, seed) / "model_final.pth")]
        command += [*self.common, *run.overrides, *self.opts]
        environment = dict(os.environ)
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        print(f"seed {seed}, {run.name}: training; the log is {folder / 'stdout.txt'}", flush=True)
        start = time.monotonic()
        with open(folder / "stdout.txt", "a") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        if code:
            raise SystemExit(f"seed {seed}, {run.name}: training ended with code {code}; see {folder / 'stdout.txt'}")
        (summary,) = (folder / "inference").glob("*/summary.json")
        result = json.loads(summary.read_text())["results"]
        minutes = (time.monotonic() - start) / 60
        self.result_file(run, seed).write_text(json.dumps({"minutes": minutes, "results": result}, indent=1))
        print(f"seed {seed}, {run.name}: done in {minutes:.1f} minutes", flush=True)

    def train_seed(self, rows: list[Row], seed: int) -> None:
        for run in dict.fromkeys(run for _, run, _ in rows):  # the source model, which others start from, is first
            self.train(run, seed)

    def result(self, run: Run, seed: int) -> dict[str, Any]:
        return json.loads(self.result_file(run, seed).read_text())

    def table(self, rows: list[Row], seeds: list[int], protocol: str) -> list[dict[str, Any]]:
        """Per row: mean over the seeds of each metric, its range, the ratio of the gap closed, minutes."""
        table = []
        for title, run, ratio in rows:
            results = [self.result(run, seed) for seed in seeds]
            row: dict[str, Any] = {"row": title, "run": run.name, "prompts": ratio}
            for metric in METRICS:
                values = [r["results"][f"{protocol}/{ratio}"][metric] for r in results]
                row[metric] = statistics.fmean(values)
                row[f"{metric} per seed"] = values
            responses = [r["results"].get(f"prompt response/{ratio}", {}).get(protocol) for r in results]
            known = [value for value in responses if value is not None]
            row["prompt response"] = statistics.fmean(known) if known else None
            row["minutes per seed"] = [r["minutes"] for r in results]
            table.append(row)
        source, supervised = (next(r["Dice"] for r in table if r["row"] == t) for t in ("Source", "Supervised"))
        gap = supervised - source
        for row in table:
            row["gap closed"] = 100 * (row["Dice"] - source) / gap if gap else None
        return table


def to_markdown(title: str, table: list[dict[str, Any]]) -> str:
    def spread(row: dict[str, Any], metric: str) -> str:
        values = row[f"{metric} per seed"]
        half = (max(values) - min(values)) / 2
        return f"{row[metric]:.1f}" + (f" ± {half:.1f}" if len(values) > 1 else "")

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.0f} %"

    body = [
        [
            row["row"],
            *(spread(row, metric) for metric in METRICS),
            percent(row["gap closed"]),
            percent(row["prompt response"]),
            " / ".join(f"{m:.0f}" for m in row["minutes per seed"]),
        ]
        for row in table
    ]
    head = ["", *METRICS, "gap closed", "prompt response", "minutes"]
    return f"### {title}\n\n" + tabulate(body, head, tablefmt="github", disable_numparse=True)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def run(args: argparse.Namespace) -> None:
    experiment = Experiment(args)
    tables = {"Table 1": MAIN}
    tables |= {"Table 2, ablation": ABLATION} if args.ablation else {}
    tables |= {"Table 3, prompts at test": TEST_PROMPTS} if args.prompts else {}
    rows = [row for table in tables.values() for row in table]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: experiment.train_seed(rows, seed), args.seeds))

    command = args.command_line
    about = f"`{command}`\n\nSeeds {args.seeds}, {processor()}, {os.cpu_count()} cores, {args.jobs} at a time."
    parts, content = [about], {"command": command, "seeds": args.seeds, "processor": processor(), "tables": {}}
    for title, table_rows in tables.items():
        for protocol in ("paper", "instance"):
            table = experiment.table(table_rows, args.seeds, protocol)
            parts.append(to_markdown(f"{title}, protocol `{protocol}`, in %", table))
            content["tables"][f"{title}/{protocol}"] = table
    (experiment.output / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    (experiment.output / "results.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))
