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
from prompt_das.evaluation.clicks import USERS
from prompt_das.evaluation.reports import click_plot
from prompt_das.ops.sliding_window import WINDOW_PRESETS

from tabulate import tabulate

METRICS = ("Dice", "AJI", "PQ")
EFFECTS_SHOWN = ("missed", "appeared %", "others appeared %", "wrong", "gone %", "changed elsewhere %")
SWITCHES = ("POINT_PSEUDO_LABELS", "MASK_PSEUDO_LABELS", "PROMPTS", "CONTRASTIVE")


@dataclass(frozen=True)
class Run:
    """One training: a folder name, the mode whose config it uses, what it overrides, and the source it starts from."""

    name: str
    mode: str
    overrides: tuple[str, ...] = ()
    source: Run | None = None  # None: SOURCE, where the mode adapts

    @property
    def adapts(self) -> bool:
        return self.mode in ("uda", "wda")


def ablation(name: str, *on: str) -> Run:
    """A weakly supervised run with only some components of the method switched on."""
    values = [(f"DOMAIN_ADAPT.USE_{switch}", str(switch in on)) for switch in SWITCHES]
    return Run(name, "wda", tuple(word for pair in values for word in pair))


SOURCE, UDA, WDA, ORACLE = (Run(mode, mode) for mode in ("source", "uda", "wda", "oracle"))
Row = tuple[str, Run, str]  # title, training, prompts at test

# The keys of configs/paper, each alone.
PAPER_ENCODER = ("MODEL.PROMPT_ENCODER.NAME", "PointPromptEncoder")
PAPER_TARGETS = ("INPUT.CLICKS.ENABLED", "False")
PAPER_PROMPTS = ("DOMAIN_ADAPT.UNPROMPTED_PROBABILITY", "0.0")
PAPER_MASKS = ("DOMAIN_ADAPT.MASKS.REQUIRE_PEAK", "False")
PAPER_REACH = ("TEST.CLICK_REACH", "image")
PAPER = (*PAPER_ENCODER, *PAPER_TARGETS, *PAPER_PROMPTS, *PAPER_MASKS, *PAPER_REACH)
PAPER_SOURCE = Run("paper_source", "source", PAPER)
DENSE_SOURCE = Run("dense_source", "source", (*PAPER_TARGETS, *PAPER_REACH))
# Those of configs/quick/em_small.yaml.
FINE = ("MODEL.DECODER.HIGH_RES_FEATURES", "True")
DICE_LOSS = ("MODEL.LOSS.DICE_WEIGHT", "0.5")
FINE_SOURCE = Run("fine_source", "source", FINE)
DICE_SOURCE = Run("dice_source", "source", DICE_LOSS)

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

CONTRASTIVE_FEATURES = ("MODEL.DECODER.CONTRASTIVE_FROM", "features", "MODEL.LOSS.CONTRASTIVE_CENTERED", "True")
PARTS: list[Row] = [  # what is not in the paper, with all centers clicked in every other row
    (title, run, ratio)
    for title, run in (
        ("The paper's recipe", Run("paper", "wda", PAPER, PAPER_SOURCE)),
        ("The paper's, masks need a peak", Run("paper_peaks", "wda", (*PAPER, *PAPER_MASKS[:1], "True"), PAPER_SOURCE)),
        ("Dense clicks, targets as in the paper", Run("dense", "wda", DENSE_SOURCE.overrides, DENSE_SOURCE)),
        ("All but unprompted target crops", Run("without_unprompted", "wda", PAPER_PROMPTS)),
        ("All but masks that need a peak", Run("without_peaks", "wda", PAPER_MASKS)),
        ("All", WDA),
        ("All, high-resolution features", Run("fine", "wda", FINE, FINE_SOURCE)),
        ("All, a Dice loss", Run("dice", "wda", DICE_LOSS, DICE_SOURCE)),
        ("All, contrastive features", Run("contrastive_features", "wda", CONTRASTIVE_FEATURES)),
        ("All, no contrastive loss", Run("no_contrastive", "wda", ("DOMAIN_ADAPT.USE_CONTRASTIVE", "False"))),
    )
    for ratio in ("0%", "100%")
]
CLICKED: dict[str, Run] = {"Source": SOURCE, "0 % model": UDA, "15 % model": WDA}


class Experiment:
    """All runs of a pair at a size, below one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.pair, self.size, self.opts = args.pair, args.size, tuple(args.opts)
        self.output = args.output or Path("output") / "reproduce" / f"{args.pair}_{args.size}"
        self.threads = args.threads
        self.folder = CONFIGS / "quick" if args.size == "quick" else CONFIGS
        ratios = "(0.0, 0.15, 0.5, 1.0)"
        self.common = ["TEST.PROMPT_RATIOS", ratios]
        if args.size == "paper":
            windows = WINDOW_PRESETS["paper"]
            self.common += ["TEST.WINDOW.STRIDE", str(windows["stride"])]
            self.common += ["TEST.WINDOW.ROTATIONS", str(windows["rotations"])]

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
        if run.adapts:
            opts += ["MODEL.WEIGHTS", str(self.path(run.source or SOURCE, seed) / "model_final.pth")]
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

    def train_seed(self, rows: list[Row], seed: int, *, clicks: bool) -> None:
        runs = [one for _, run, _ in rows for one in (run.source, run) if one is not None]
        for run in dict.fromkeys(runs):  # a model that others start from comes before them
            self.train(run, seed)
        for run in CLICKED.values() if clicks else ():
            self.click(run, seed)

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


def click_tables(clicks: dict[str, dict[str, Any]]) -> str:
    """Markdown of the curves against clicks and of the effects of single clicks, by model."""
    rows = [
        [number, *(f"{one['curves'][user][number][score]:.1f}" for one in clicks.values() for score in ("Dice", "PQ"))]
        for user in USERS
        for number in next(iter(clicks.values()))["curves"][user]
    ]
    heads = ["clicks a slice", *(f"{model}: {score}" for model in clicks for score in ("Dice", "PQ"))]
    length = len(rows) // len(USERS)
    parts = [
        f"### Clicks of a {user} user\n\n" + tabulate(rows[i * length : (i + 1) * length], heads, tablefmt="github")
        for i, user in enumerate(USERS)
    ]
    effects = [[name, *(one["effects"][name] for one in clicks.values())] for name in EFFECTS_SHOWN]
    head = ["", *clicks]
    return "\n\n".join(
        [*parts, "### One click\n\n" + tabulate(effects, head, tablefmt="github", floatfmt=".1f", missingval="-")]
    )


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
    tables |= {"Table 2, ablation": ABLATION} if args.ablation else {}
    tables |= {"Table 3, prompts at test": TEST_PROMPTS} if args.prompts else {}
    tables |= {"What is not in the paper": [MAIN[0], *PARTS, MAIN[-1]]} if args.parts else {}
    rows = [row for table in tables.values() for row in table]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: experiment.train_seed(rows, seed, clicks=args.clicks), args.seeds))

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
