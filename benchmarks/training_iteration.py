"""A training iteration as PromptDASTrainer does it, with loader, teacher and hooks, on synthetic slices."""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import prompt_das
from prompt_das.adaptation.mean_teacher import MovingAverage
from prompt_das.adaptation.pseudo_labels import PseudoLabelLoader
from prompt_das.cli.prepare_mitoem import prepare
from prompt_das.engine.trainer import PromptDASTrainer, build_trainer
from prompt_das.modeling import PromptDAS, criterion
from prompt_das.modeling.precision import computed_precision
from prompt_das.volumes.synthetic import STYLES

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from .flops import count_flop
from .loader import write_slices
from .measure import Laps, peak_memory, spread
from .model import training_step

SLICES = 8  # of each domain
SETTINGS: dict[str, Any] = {
    "DATASETS.TRAIN": ("synthetic_source_train",),
    "DATASETS.TARGET": ("synthetic_target_train",),
    "DATASETS.VAL": (),  # no evaluation
    "DATASETS.TEST": (),
    "DOMAIN_ADAPT.BURN_IN_ITERS": 0,
    "SOLVER.MAX_ITER": 1_000_000,  # stopped long before
    "SOLVER.CHECKPOINT_PERIOD": 1_000_000,
    "TEST.EVAL_PERIOD": 0,
    "VIS_PERIOD": 0,
    # An untrained teacher is sure of nothing, but calls some pixels of every crop foreground and others background.
    # These make all of them queries or negatives. Every crop holds an instance, hence the target's a sparse point. And
    # weights that stand still keep it so.
    "DOMAIN_ADAPT.CONTRASTIVE.FOREGROUND": 0.5,
    "DOMAIN_ADAPT.CONTRASTIVE.BACKGROUND": 0.5,
    "INPUT.FOREGROUND_PROBABILITY": 1.0,
    "SOLVER.BASE_LR": 1e-12,
    "SOLVER.MIN_LR": 1e-12,
}
PACKAGES = [Path(package.__file__ or "").parent for package in (prompt_das, detectron2)]


def overrides(folder: Path) -> list[str]:
    """``SETTINGS`` as they are written on a command line; the run's output goes to ``folder``."""
    words = [word for key, value in SETTINGS.items() for word in (key, str(value))]
    return [*words, "OUTPUT_DIR", str(folder / "output")]


@contextmanager
def synthetic_data(folder: Path, size: int, seed: int) -> Iterator[None]:
    """Both synthetic domains as training finds MitoEM: prepared, in Zarr, where ``DETECTRON2_DATASETS`` says."""
    for style in STYLES:
        write_slices(folder / "synthetic" / style, size, SLICES, seed, style)
        prepare(folder / "synthetic" / style, allow_partial=True)
    with mock.patch.dict(os.environ, {"DETECTRON2_DATASETS": str(folder)}):
        yield


@contextmanager
def quiet_detectron2() -> Iterator[None]:
    """Its logging does the same work and says nothing: a printed network would bury the tables."""
    logger = logging.getLogger("detectron2")
    level, handlers, propagate = logger.level, logger.handlers, logger.propagate
    logger.setLevel(logging.INFO)
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate


def benchmark_training(
    cfg: CfgNode, warm_up: int, iterations: int, seconds_left: Callable[[], float]
) -> dict[str, Any]:
    """Whole iterations, their memory and host synchronisations, and what a single one is made of.

    Of a compiled network only the iterations and their memory: its parts are no longer those that are written down.
    """
    with quiet_detectron2():
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=False)
        with running(trainer) as step:
            result: dict[str, Any] = {
                "images": [cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.TARGET_IMS_PER_BATCH],
                "crop": cfg.INPUT.CROP_SIZE,
                "precision": computed_precision(cfg.MODEL.PRECISION, device_of(trainer)),
                "workers": cfg.DATALOADER.NUM_WORKERS,
                **time_iterations(step, trainer, warm_up, iterations, seconds_left),
                "memory": memory_of(step, trainer),
                "host synchronisations": host_synchronisations(step) if device_of(trainer).type == "cuda" else None,
            }
        if cfg.MODEL.COMPILE:
            return result
        return {**result, **benchmark_parts(trainer, iterations, seconds_left)}


def device_of(trainer: PromptDASTrainer) -> torch.device:
    return trainer.teacher.device


@contextmanager
def running(trainer: PromptDASTrainer) -> Iterator[Callable[[], None]]:
    """The trainer between the begin and the end of its training -> a function that does the next iteration."""
    numbers = itertools.count()

    def step() -> None:  # one round of Detectron2's TrainerBase.train
        trainer.iter = next(numbers)
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()

    with EventStorage(0) as trainer.storage:
        trainer.before_train()
        try:
            yield step
        finally:
            trainer.after_train()


def time_iterations(
    step: Callable[[], None],
    trainer: PromptDASTrainer,
    warm_up: int,
    iterations: int,
    seconds_left: Callable[[], float],
) -> dict[str, Any]:
    """Milliseconds of an iteration, from its end to the end of the next, without a wait that training has not.

    Three views that agree where the measurement is sound: the host's clock, the device's own (its events are only
    marks in its queue), and the wall-clock time of all iterations by their number, where the device is waited for once,
    at the end. A host that never waits is ahead of the device, and its own median may then be too short.
    """
    cuda = device_of(trainer).type == "cuda"

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True) if cuda else None
        if event is not None:
            event.record()
        return event

    first: list[float] = []
    enough = seconds_left() / 2
    while not first or (len(first) < warm_up and sum(first) < enough):
        start = time.perf_counter()
        step()
        wait()
        first.append(time.perf_counter() - start)

    enough = seconds_left() / 3
    start = time.perf_counter()
    host, events = [start], [mark()]
    while len(host) <= iterations and (len(host) < 2 or host[-1] - start < enough):
        step()
        events.append(mark())
        host.append(time.perf_counter())
    wait()
    wall = time.perf_counter() - start
    times = {"median by the host": [1e3 * (b - a) for a, b in itertools.pairwise(host)]}
    if cuda:
        times["median by the device"] = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    times["wall clock / number"] = [1e3 * wall / (len(host) - 1)]
    return {
        "iterations": len(host) - 1,
        "iteration, ms": {name: spread(taken) for name, taken in times.items()},
        "warm-up, s": sum(first),
        "first iteration, s": first[0],
    }


def memory_of(step: Callable[[], None], trainer: PromptDASTrainer) -> dict[str, float | None]:
    """MB: what stays between iterations (weights, teacher, optimizer), and what one needs beyond it at its peak."""
    cuda = device_of(trainer).type == "cuda"
    stays = torch.cuda.memory_allocated() / 1e6 if cuda else None
    peak = peak_memory(step, device_of(trainer)) / 1e6
    return {"stays": stays, "beyond": peak, "reserved": torch.cuda.max_memory_reserved() / 1e6 if cuda else None}


def host_synchronisations(step: Callable[[], None]) -> dict[str, int]:
    """Where the host waits for the device in a step, as torch's sync debug mode sees it -> how often.

    It sees reading values back, copies that wait, and shapes that depend on values; not explicit waits for an event.
    """
    sites: Counter[str] = Counter()

    def note(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            sites[calling_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # taken back with the filters
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return dict(sites.most_common())


def calling_line() -> str:
    """The innermost line of prompt_das or Detectron2 that is at work, else of whatever is."""
    frames = traceback.extract_stack()[:-3]  # without this function, the one that asks, and the warning's own
    for frame in reversed(frames):
        for package in PACKAGES:
            if Path(frame.filename).is_relative_to(package):
                return f"{Path(frame.filename).relative_to(package.parent)}:{frame.lineno}, {frame.name}"
    return f"{frames[-1].filename}:{frames[-1].lineno}, {frames[-1].name}"


def benchmark_parts(trainer: PromptDASTrainer, repeats: int, seconds_left: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of the parts of an iteration, the device waited for after each, and their FLOP."""
    student, device = trainer.checkpointer.model, device_of(trainer)
    labeler = trainer.data_loader.labeler
    average, laps = MovingAverage(trainer.teacher, student), Laps(device)
    batches = iter(trainer.loader)
    start, enough = time.perf_counter(), seconds_left() / 3
    with EventStorage(1):
        for done in range(repeats + 1):  # the first warms up
            if done > 1 and time.perf_counter() - start > enough:
                break
            samples = laps("data", lambda: next(batches))
            labeling = PseudoLabelLoader([samples], labeler)
            batch = laps("teacher", lambda: next(iter(labeling)))  # noqa: B023  (called at once)
            training_step(student, average, trainer.optimizer, batch, laps)
        student.graphs.enabled = labeler.graphs.enabled = False  # what is replayed is not counted
        flop = {"teacher": count_flop(lambda: next(iter(labeling)))}
        losses: dict[str, torch.Tensor] = {}
        contrast = contrastive_branch(student, batch)
        flop["forward"] = count_flop(lambda: losses.update(student(batch)))
        flop["backward"] = count_flop(lambda: torch.stack(list(losses.values())).sum().backward())
        student.zero_grad()
    times = {name: spread([1e3 * t for t in taken[1:]]) for name, taken in laps.seconds.items()}
    return {
        "parts, ms": times,
        "sum of the parts, ms": sum(taken["median"] for taken in times.values()),
        "GFLOP": {name: count / 1e9 for name, count in flop.items()},
        "contrastive loss": contrast,
    }


def contrastive_branch(student: PromptDAS, batch: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How many positives, queries and negatives an image has that the contrastive loss counts, and the loss.

    Raises RuntimeError if the loss has nothing to count, and an iteration would cost less than a real one.
    """
    numbers: dict[str, float] = {}
    loss = criterion.contrastive_loss

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        given = inspect.signature(loss).bind(*args, **kwargs).arguments
        for kind in ("positive", "query", "negative"):
            numbers[kind] = given[f"{kind}_valid"].sum(1).double().mean().item()
        return loss(*args, **kwargs)

    with mock.patch.object(criterion, "contrastive_loss", counted), torch.no_grad():
        numbers["loss"] = student(batch)["loss_pcl"].item()
    if not numbers["loss"] > 0:
        raise RuntimeError(f"the contrastive loss of the batch is {numbers['loss']} with {numbers}: nothing to measure")
    return numbers
