"""The rows of the paper's tables on a pair of domains: train what is missing, evaluate, write one table."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prompt_das.cli.reproduce_rows import CLICKED, MAIN, TEST_PROMPTS, Row, Run, ablation_rows, parts_rows, source_of
from prompt_das.cli.reproduce_tables import METRICS, click_tables, to_markdown
from prompt_das.config.find import CONFIGS
from prompt_das.evaluation.reports import click_plot
from prompt_das.ops.sliding_window import WINDOW_PRESETS


class Experiment:
    """All runs of a pair at a size, below one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.pair, self.size, self.opts = args.pair, args.size, tuple(args.opts)
        self.output = args.output or Path("output") / "reproduce" / f"{args.pair}_{args.size}"
        self.threads = args.threads
        self.folder = CONFIGS / "quick" if args.size == "quick" else CONFIGS
        ratios = "(0.0, 0.15, 0.5, 1.0)"
        windows = WINDOW_PRESETS["paper"]
        self.common = ["TEST.PROMPT_RATIOS", ratios, "TEST.WINDOW.ROTATIONS", str(windows["rotations"])]
        if args.size == "paper":
            self.common += ["TEST.WINDOW.STRIDE", str(windows["stride"])]

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
        opts = ["OUTPUT_DIR", str(folder), "SEED", str(seed)]
        if source := source_of(run):
            opts += ["MODEL.WEIGHTS", str(self.path(source, seed) / "model_final.pth")]
        start = time.monotonic()
        self.call(run, seed, ["train", "--resume"], [*opts, *self.common, *run.overrides, *self.opts])
        (summary,) = (folder / "inference").glob("*/summary.json")
        result = json.loads(summary.read_text())["results"]
        minutes = (time.monotonic() - start) / 60
        self.result_file(run, seed).write_text(json.dumps({"minutes": minutes, "results": result}, indent=1))
        print(f"seed {seed}, {run.name}: done in {minutes:.1f} minutes", flush=True)

    def click(self, run: Run, seed: int) -> None:
        """Evaluate a trained run click by click, unless that has been done."""
        if not list((self.path(run, seed) / "inference").glob("*/clicks.json")):
            weights = ["--weights", str(self.path(run, seed) / "model_final.pth")]
            opts = ["OUTPUT_DIR", str(self.path(run, seed)), *run.overrides, *self.opts]
            self.call(run, seed, ["evaluate", "--clicks", *weights], opts)

    def call(self, run: Run, seed: int, command: list[str], opts: list[str]) -> None:
        """Run a command of prompt-das with the config of a run; its output goes to a file in the folder of the run."""
        config = ["--config-file", str(self.folder / f"{self.pair}_{run.mode}.yaml")]
        environment = dict(os.environ)
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        path = self.path(run, seed) / "stdout.txt"
        print(f"seed {seed}, {run.name}: {command[0]}; the log is {path}", flush=True)
        with open(path, "a") as log:
            code = subprocess.run(
                [sys.executable, "-m", "prompt_das_cli", *command, *config, *opts],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            ).returncode
        if code:
            raise SystemExit(f"seed {seed}, {run.name}: {command[0]} ended with code {code}; see {path}")

    def train_all(self, rows: list[Row], seeds: list[int], pool: Executor) -> None:
        """Train the runs of all rows with every seed, each after the model that it starts from.

        What starts from nothing comes first: no worker of the pool waits for a model whose turn has not come.
        """
        runs = dict.fromkeys(one for _, run, _ in rows for one in (source_of(run), run) if one is not None)
        done: dict[tuple[Run, int], Future[None]] = {}
        for run in sorted(runs, key=lambda run: run.adapts):
            source = source_of(run)
            for seed in seeds:
                before = done[source, seed] if source else None
                done[run, seed] = pool.submit(self.train_after, before, run, seed)
        for future in done.values():
            future.result()

    def train_after(self, before: Future[None] | None, run: Run, seed: int) -> None:
        if before:
            before.result()
        self.train(run, seed)

    def clicks(self, run: Run, seeds: list[int]) -> dict[str, Any]:
        """Means over the seeds of what ``evaluate --clicks`` has written: curves by user and number, and effects."""
        files = [next((self.path(run, seed) / "inference").glob("*/clicks.json")) for seed in seeds]
        return mean_of([json.loads(file.read_text()) for file in files])

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


def mean_of(contents: list[Any]) -> Any:
    """The mean of equally nested tables of numbers; None, an undefined number, is left out."""
    if isinstance(contents[0], dict):
        return {key: mean_of([content[key] for content in contents]) for key in contents[0]}
    numbers = [number for number in contents if number is not None]
    return statistics.fmean(numbers) if numbers else None


def numbered(curve: dict[str, Any]) -> dict[int, Any]:
    """JSON has texts as keys."""
    return {int(number): scores for number, scores in curve.items()}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def run(args: argparse.Namespace) -> None:
    experiment = Experiment(args)
    tables = {"Table 1": MAIN}
    tables |= {"Table 2, ablation": ablation_rows(args.size)} if args.ablation else {}
    tables |= {"Table 3, prompts at test": TEST_PROMPTS} if args.prompts else {}
    tables |= {"What is not in the paper": [MAIN[0], *parts_rows(args.size), MAIN[-1]]} if args.parts else {}
    rows = [row for table in tables.values() for row in table]
    with ThreadPoolExecutor(args.jobs) as pool:
        experiment.train_all(rows, args.seeds, pool)
        if args.clicks:
            list(pool.map(lambda one: experiment.click(*one), itertools.product(CLICKED.values(), args.seeds)))

    command = args.command_line
    about = f"`{command}`\n\nSeeds {args.seeds}, {processor()}, {os.cpu_count()} cores, {args.jobs} at a time."
    parts, content = [about], {"command": command, "seeds": args.seeds, "processor": processor(), "tables": {}}
    for title, table_rows in tables.items():
        for protocol in ("paper", "instance"):
            table = experiment.table(table_rows, args.seeds, protocol)
            parts.append(to_markdown(f"{title}, protocol `{protocol}`, in %", table))
            content["tables"][f"{title}/{protocol}"] = table
    if args.clicks:
        clicks = {model: experiment.clicks(one, args.seeds) for model, one in CLICKED.items()}
        content["clicks"] = clicks
        parts.append(click_tables(clicks))
        careful = {model: {"": numbered(one["curves"]["careful"])} for model, one in clicks.items()}
        (experiment.output / "clicks.png").write_bytes(click_plot(careful))
    (experiment.output / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    (experiment.output / "results.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))
