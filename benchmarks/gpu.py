"""The paper's setting on a GPU: training iterations, whole slices, the device's ceilings, agreement with the CPU.

The network of configs/rat2human_wda.yaml with random weights, in bfloat16, on synthetic slices; nothing is downloaded.
What the time does not suffice for is left out and listed. With --device cpu the same runs on the processor, as a
rehearsal.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.utils.atomic_write import atomic_write

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from . import agreement, ceilings, training_iteration, whole_slice
from .measure import describe, machine, show, write
from .model import CONFIG_OF_SIZE

logger = logging.getLogger(__name__)

BEGIN, END = "<!-- begin: make benchmark-gpu -->", "<!-- end: make benchmark-gpu -->"
TRAINING_TARGET = 25  # ms, on one H100
SLICE_TARGETS = {"fast": 0.6, "paper": 5.0}  # s
TFLOP_OF_THE_PAPER = 5.45  # of an iteration, as reckoned by hand for the paper's size
NEEDED = {"compiled iteration": 180.0}  # seconds that must be left, or a part is not begun; others: a few
PAPER = str(CONFIG_OF_SIZE["paper"])


class Clock:
    """How much of the time is left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--iterations", type=int, default=200, help="of training that are timed (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=20, help="iterations before them (default: %(default)s)")
    parser.add_argument("--slice", type=int, default=4096, help="side of a whole slice in pixels")
    parser.add_argument("--data", type=int, default=1024, help="side of the slices that training reads")
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 16], help="windows at once")
    parser.add_argument("--document", type=Path, help="Markdown file whose section gets the tables, between its marks")
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the config, after --: KEY VALUE ...")


# ---- the parts


def config(args: argparse.Namespace, *own: str) -> CfgNode:
    fixed = ["MODEL.VIT.WEIGHTS", "", "MODEL.PRECISION", "bfloat16", "SEED", str(args.seed), *own]
    return get_prompt_das_cfg(PAPER, [*fixed, *args.opts, "MODEL.DEVICE", args.device])


def measure_ceilings(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    return ceilings.measure_ceilings(torch.device(args.device), args.repeats)


def train(args: argparse.Namespace, clock: Clock, *own: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, training_iteration.synthetic_data(Path(name), args.data, args.seed):
        cfg = config(args, *training_iteration.overrides(Path(name)), *own)
        return training_iteration.benchmark_training(cfg, args.warm_up, args.iterations, clock.left)


def train_replayed(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    return train(args, clock, "MODEL.CUDA_GRAPHS", "True")


def agree(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    return agreement.compare(config(args), torch.device(args.device), args.seed)


def predict_slice(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    return whole_slice.benchmark_slice(config(args), args.slice, args.batches, args.repeats, args.seed, clock.left)


def score_slice(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    return whole_slice.benchmark_metrics(config(args), args.slice, args.repeats, args.seed)


def train_compiled(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """In a process of its own, which ends when the time does: a compiler may take as long as it likes, or fail."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gpu.json"
        command = [sys.executable, "-m", "benchmarks", "gpu"]
        command += ["--device", args.device, "--parts", "training iteration", "--minutes", f"{clock.left() / 60:.2f}"]
        command += [
            "--iterations",
            str(args.iterations),
            "--warm-up",
            str(args.warm_up),
            "--data",
            str(args.data),
        ]
        command += ["--seed", str(args.seed), "--output", str(out), "--", *args.opts, "MODEL.COMPILE", "inductor"]
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, error = process.communicate(timeout=max(1.0, clock.left()))
        except subprocess.TimeoutExpired:
            return {"note": "not done within the time that was left"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the compiler's own processes too
                process.communicate()
        if process.returncode or not out.is_file():
            return {"note": f"failed: {(error.strip().splitlines() or ['no message'])[-1]}"}
        (result,) = json.loads(out.read_text())["gpu"]
        return result


Part = Callable[[argparse.Namespace, Clock], dict[str, Any]]
PARTS: dict[str, Part] = {
    "ceilings": measure_ceilings,
    "training iteration": train,
    "replayed iteration": train_replayed,
    "agreement": agree,
    "slice": predict_slice,
    "metrics": score_slice,
    "compiled iteration": train_compiled,
}


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Part after part. One that fails is logged and does not lose the others; see :func:`conclude`."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "the command `gpu` needs a CUDA device, and torch sees none: `--device cpu` rehearses it on the processor"
        )
    if args.document:
        replace_between_marks(args.document.read_text(), "")  # better now than after minutes
    clock, results = Clock(60 * args.minutes), []
    for name in args.parts:
        result = {"what": name}
        if name == "compiled iteration" and args.device == "cpu":
            result["note"] = "not in a rehearsal"
        elif clock.left() < NEEDED.get(name, 5.0):
            result["note"] = "left out: no time was left"
        else:
            print(f"{name}: {clock.left():.0f} s are left", flush=True)
            try:
                result = {**PARTS[name](args, clock), **result}
            except Exception as error:
                logger.exception("%s failed", name)
                result["failed"] = f"{type(error).__name__}: {error}"
        results.append(result)
        if args.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        if args.output:
            write(args.output, machine(args.seed), "gpu", results)
    return results


def conclude(args: argparse.Namespace, machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Put the tables into the document, if that is asked for and this is no rehearsal.

    Raises:
        SystemExit: the device computes something else than the processor, or a part failed.
    """
    if args.document and args.device == "cuda":
        text = replace_between_marks(args.document.read_text(), f"{describe(machine)}\n\n{report(results)}")
        with atomic_write(args.document) as part:
            part.write_text(text)
    problems = [f"{r['what']} failed: {r['failed']}" for r in results if "failed" in r]
    problems += ["the device and the processor disagree" for r in results if r.get("agrees") is False]
    if problems:
        raise SystemExit("; ".join(problems))


def replace_between_marks(document: str, text: str) -> str:
    """The document with ``text`` between its two marks instead of what is there. Raises ValueError without them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for the tables: it needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


# ---- the report


def report(results: list[dict[str, Any]]) -> str:
    found = {r["what"]: r for r in results}
    rates = found.get("ceilings", {}).get("TFLOP/s", {}).get("bfloat16", {})
    best = max(rates.values(), default=None)
    blocks = []
    for name, result in found.items():
        blocks.append(f"### {name.capitalize()}")
        if "failed" in result:
            blocks.append(f"Failed: {result['failed']}")
        elif "note" in result:
            blocks.append(f"{result['note'][0].upper()}{result['note'][1:]}.")
        else:
            blocks += REPORTS[name](result, best)
    return "\n\n".join(blocks)


def table(rows: list[list[Any]], header: list[str]) -> str:
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def share(flop_per_second: float, best: float | None) -> str:
    """TFLOP/s, and what part of the best matrix product in bfloat16 that is."""
    rate = flop_per_second / 1e12
    return f"{rate:.1f}" + (f" ({rate / best:.0%} of the best)" if best else "")


def report_ceilings(result: dict[str, Any], best: float | None) -> list[str]:
    rates = result["TFLOP/s"]
    rows = [[shape, *(f"{of_shape[shape]:.1f}" for of_shape in rates.values())] for shape in next(iter(rates.values()))]
    memory = f"; memory {result['memory, GB']:.0f} GB" if result["memory, GB"] else ""
    return [
        table(rows, ["matrix product", *(f"{kind}, TFLOP/s" for kind in rates)]),
        "Below, a share of the best is one of the best product in bfloat16.",
        f"Copy in the device's memory, read and written: {result['copy, GB/s']:.0f} GB/s{memory}; "
        f"CUDA {result['CUDA'] or 'none'}.",
    ]


def report_iterations(result: dict[str, Any], best: float | None) -> list[str]:
    source, target = result["images"]
    times = result["iteration, ms"]
    rows = [[f"iteration, {name}", show(taken, 1)] for name, taken in times.items()]
    rows.append(["target, on one H100", f"{TRAINING_TARGET}"])
    if "parts, ms" in result:
        rows += [[f"part: {name}", show(taken, 1)] for name, taken in result["parts, ms"].items()]
        rows.append(["sum of the parts", f"{result['sum of the parts, ms']:.1f}"])
    memory = result["memory"]
    stays = "" if memory["stays"] is None else f"{memory['stays']:.0f} MB stay between iterations, "
    blocks = [
        f"{source} source and {target} target crops of {result['crop']}², {result['precision']}, "
        f"{result['workers']} loader processes a stream; {result['iterations']} iterations after "
        f"{result['warm-up, s']:.1f} s of warm-up, of which the first took {result['first iteration, s']:.1f} s.",
        table(rows, ["", "ms"]),
        f"Memory: {stays}{memory['beyond']:.0f} MB more at the peak of one.",
    ]
    if "GFLOP" in result:
        blocks += report_work(result, best)
    waits = result["host synchronisations"]
    if waits is not None:
        blocks.append(f"Host synchronisations in one iteration: {sum(waits.values())}.")
        if waits:
            blocks.append(table([[f"`{site}`", n] for site, n in waits.items()], ["where", "how often"]))
    return blocks


def report_work(result: dict[str, Any], best: float | None) -> list[str]:
    work = {**result["GFLOP"], "total": sum(result["GFLOP"].values())}
    per_second = 1e9 * work["total"] / (result["iteration, ms"]["wall clock / number"]["median"] / 1e3)
    contrast = result["contrastive loss"]
    return [
        table([[name, f"{gflop / 1e3:.3f}"] for name, gflop in work.items()], ["work of an iteration", "TFLOP"]),
        f"Reckoned by hand for the paper's size: {TFLOP_OF_THE_PAPER} TFLOP, without what attention computes again "
        f"in the backward pass. Rate of the whole iteration: {share(per_second, best)} TFLOP/s.",
        f"A target image has {contrast['positive']:.1f} sparse points, {contrast['query']:.0f} queries and "
        f"{contrast['negative']:.0f} negatives; the contrastive loss is {contrast['loss']:.3f}.",
    ]


def report_agreement(result: dict[str, Any], best: float | None) -> list[str]:
    errors = result["errors"]
    rows = [[name, *(f"{of_all[name]:.1e}" for of_all in errors.values())] for name in errors["float32"]]
    verdict = "all within" if result["agrees"] else "NOT within"
    return [
        table(rows, ["‖device − CPU‖ / ‖CPU‖", *errors]),
        f"Crops of {result['crop of the heads']}² for the heads, of {result['crop of losses and gradient']}² for the "
        "losses and the gradient; the CPU computes in float32, the device without TF32. "
        f"In float32 {verdict} {result['limit']:.0e}.",
    ]


def report_slice(result: dict[str, Any], best: float | None) -> list[str]:
    rows = []
    for case in result["cases"]:
        gflop = result["GFLOP of a window"][str(case["density"])] * case["views"]
        rows.append(
            [
                case["protocol"],
                "with" if case["density"] else "without",
                case["batch"],
                show(case["seconds"], 2),
                SLICE_TARGETS[case["protocol"]],
                f"{case['views'] / case['seconds']['median']:.0f}",
                share(1e9 * gflop / case["seconds"]["median"], best),
                f"{case['peak memory, MB']:.0f}",
            ]
        )
    header = ["protocol", "density", "batch", "s", "target, s", "windows / s", "TFLOP/s", "peak memory, MB"]
    blocks = [
        f"A slice of {result['side']}² in windows of {result['window']}², {result['precision']}, from the host and "
        "back. A window counts for each of its rotations; targets are for one H100, without density.",
        table(rows, header),
    ]
    if result["cases left out"]:
        names = (f"{c['protocol']}, density {c['density']}, batch {c['batch']}" for c in result["cases left out"])
        blocks.append(f"Left out, no time: {'; '.join(names)}.")
    return blocks


def report_metrics(result: dict[str, Any], best: float | None) -> list[str]:
    rows = [[name, show(taken, 1, 1e3)] for name, taken in result["seconds"].items()]
    return [table(rows, [f"a slice of {result['side']}² on the host", "ms"])]


REPORTS: dict[str, Callable[[dict[str, Any], float | None], list[str]]] = {
    "ceilings": report_ceilings,
    "training iteration": report_iterations,
    "replayed iteration": report_iterations,
    "agreement": report_agreement,
    "slice": report_slice,
    "metrics": report_metrics,
    "compiled iteration": report_iterations,
}
