"""Adaptation of trained weights to one volume, by its images and a few clicks, within some minutes.

A run of the trainer like any other, in a folder beside the result; what is added is all that a user would have to
decide: the schedule follows from the minutes, some clicks are kept aside to watch, and the last moment that they do not
object to is written, or the start if there is none.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import prompt_das
from prompt_das.adaptation.click_advice import warn_of_empty_places
from prompt_das.adaptation.confidence_fit import CarriedConfidence, fit_confidence
from prompt_das.adaptation.held_out_clicks import ClickWindows, HeldOutScore
from prompt_das.checkpoint.checkpointer import BEST
from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.checkpoint.safe_load import CONFIG, export_weights, read_checkpoint
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.sharing import config_for_sharing
from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.data.crop_reader import CropReader
from prompt_das.data.datasets import names_of
from prompt_das.engine import run_folder
from prompt_das.engine.adapt_files import check_arguments, open_folder, require_same_inputs
from prompt_das.engine.adapt_schedule import (
    SCORES,
    as_options,
    make_schedule,
    measure_schedule,
    schedule_of,
    seconds_to_make_points,
)
from prompt_das.engine.adapt_target import TRAIN_CLICKS, Target, find_target, keep_aside
from prompt_das.engine.checks import check_run
from prompt_das.engine.hooks.held_out_clicks import ClickWatch
from prompt_das.engine.outline import outline_of_diameter
from prompt_das.engine.trainer import build_trainer
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.modeling.load import config_of_weights, load_model
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.point_files import SliceClicks

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import Tensor

logger = logging.getLogger(__name__)

# Of the learning rate that the weights were trained with, so that what they have learned is not lost before the teacher
# has followed.
LR_RATIO = 1 / 3
# Crops of a source in a batch, beside DATALOADER.TARGET_IMS_PER_BATCH of the target. With as many of both, a network is
# no better after as many iterations, and a budget holds fewer (docs/EXPERIMENTS.md).
SOURCE_CROPS = 1
# Radius of what a click says for certain, in sigmas of the center-point head: well inside of a typical object.
SUPERVISION_SIGMAS = 1.0
# Of the score of the start: what a network may lose and still be written (docs/EXPERIMENTS.md).
TOLERANCE = 0.05
CONFIDENCE, TEACHER_CONFIDENCE = "TEST.MIN_CONFIDENCE", "DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE"


@dataclass(frozen=True)
class Adaptation:
    """What came of an adaptation.

    Attributes:
        output: the weights that were written.
        before, after: scores at the held-out clicks of the start, and of the moment that was written or, if none was
            good enough, of the last one, see
            :class:`~prompt_das.adaptation.held_out_clicks.HeldOutScore`; None where nothing watched.
        adapted: False if no moment was good enough; the start was written then.
        iterations: of the training.
        minutes: of this call; of a resumed adaptation, since it was resumed.
        settings: that the written weights have in the place of those of the start (KEY, VALUE, ...).
    """

    output: Path
    before: float | None
    after: float | None
    adapted: bool
    iterations: int
    minutes: float
    settings: tuple[str, ...] = ()


def adapt(
    weights: str | Path,
    volume: VolumeSource,
    output: str | Path,
    *,
    source: str | None = None,
    minutes: float = 10,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    opts: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    progress: bool = True,
) -> Adaptation:
    """Adapt trained weights to a volume and write them.

    Stopped by a signal, the run stays in ``OUTPUT.adapting`` and can be resumed; at the end that folder is removed.

    Args:
        weights: as :func:`~prompt_das.modeling.load.load_model` takes them.
        volume: what to adapt to, and the file of clicks on it; without one the network makes the points itself, and
            nothing watches.
        output: ``*.safetensors`` or ``*.pth``.
        source: labeled volume to train on as well: a registered name, "synthetic", or YAML that describes one.
        minutes: the budget, from this call to the result. ``SOLVER.MAX_ITER`` in ``opts`` takes its place.
        seed: of the clicks that are held out and of the training.
        resume: continue an adaptation that was stopped, if there is one.
        overwrite: replace ``output``, and an adaptation that was stopped.
        opts: overrides of the config (KEY, VALUE, ...).
        progress: show a progress bar.

    Raises:
        FileExistsError: there is a result already, or an adaptation that was stopped.
        FileNotFoundError: no weights, volume, clicks or source.
        ValueError: clicks that are too few or outside, or another argument that makes no sense; says what to do.
        FloatingPointError: the training diverged, and nothing watched it.
        SystemExit: stopped by a signal, see :class:`~prompt_das.engine.hooks.stopping.StopOnSignal`.
    """
    begun = time.monotonic()
    output = Path(output).expanduser().absolute()
    folder = check_arguments(output, minutes, seed, opts, resume=resume, overwrite=overwrite)
    weights = find_weights(weights)
    start_cfg, start = load_model(weights, opts=opts, plugins=plugins)
    target = find_target(volume, start_cfg)
    crop = CropReader(start_cfg.INPUT.CROP_SIZE, volume.scale(start_cfg, target.slices[0]["voxel_size"]))
    settings = run_settings(start_cfg, weights, target, source, folder, seed)
    if volume.diameter is not None:
        settings += as_options({"INPUT.SCALE": 1.0})  # the voxel size of the target decides
    outline = outline_of_diameter(weights, volume, opts=opts, plugins=plugins)
    if outline:
        start_cfg, start = load_model(weights, opts=[*outline, *opts], plugins=plugins)
    cfg = get_prompt_das_cfg(None, [*settings, *opts], text=start_cfg.dump())
    unfinished = open_folder(output, folder, [weights, *target.files], resume=resume)
    require_same_inputs(folder, weights, target.slices, resume=unfinished)
    held_out = None if target.clicks is None else keep_aside(target, folder, seed, resume=unfinished)
    check_run(cfg)
    if target.clicks is not None and not unfinished:
        warn_of_empty_places(target.file, target.slices, target.clicks, crop, start)
    if target.clicks is not None and TEACHER_CONFIDENCE not in opts[::2]:
        confidence = fit_confidence(start, target.slices, target.clicks, crop, start_cfg.TEST.MIN_CONFIDENCE)
        settings += as_options({TEACHER_CONFIDENCE: confidence})
    sigma = cfg.MODEL.CENTER_HEAD.SIGMA
    watched = Watched() if held_out is None else watch_clicks(target, held_out, crop, start, sigma)

    carried = None
    if CONFIDENCE not in opts[::2]:
        corrupt = CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES)
        carried = CarriedConfidence(start, target.slices, crop, start_cfg.TEST.MIN_CONFIDENCE, corrupt)

    if unfinished:
        schedule = schedule_of(folder)
    elif "SOLVER.MAX_ITER" in opts[::2]:
        schedule = make_schedule(cfg.SOLVER.MAX_ITER, SCORES)
    else:
        left = 60 * minutes - (time.monotonic() - begun)
        if target.clicks is None:
            left -= seconds_to_make_points(start, target.slices, crop.scale)
        schedule = measure_schedule(left, cfg, watched.seconds)
    cfg = get_prompt_das_cfg(None, [*settings, *schedule, *opts], text=start_cfg.dump())
    if unfinished:
        run_folder.require_same_run(cfg, folder)
    after, state = train(cfg, watched, resume=unfinished, progress=progress)
    adapted = state is not None
    kept = list(outline)
    if state is None:
        state = start.state_dict()
    elif carried is not None:
        start.load_state_dict(state)  # the start has been counted
        kept += as_options({CONFIDENCE: carried(start)})
    about = {"weights": weights.name, "iterations": cfg.SOLVER.MAX_ITER, "adapted": adapted, "before": watched.before}
    # Not with ``opts``: they are those of this run, not of the next one that begins with its weights.
    write_weights(output, state, config_of_weights(weights, opts=kept, plugins=plugins), {**about, "after": after})
    shutil.rmtree(folder, ignore_errors=True)  # the result is there, whatever a file system thinks of open files
    taken = (time.monotonic() - begun) / 60
    return Adaptation(output, watched.before, after, adapted, cfg.SOLVER.MAX_ITER, taken, tuple(kept))


def run_settings(
    start_cfg: CfgNode, weights: Path, target: Target, source: str | None, folder: Path, seed: int
) -> list[str]:
    """What the config of the run changes in the config of the weights (KEY, VALUE, ...), but for the schedule."""
    names = [] if source is None else names_of(source)
    settings = {
        "MODEL.WEIGHTS": str(weights.absolute()),
        "DATASETS.TRAIN": tuple(names),
        "DATASETS.TARGET": (target.name,),
        "DATASETS.VAL": (),
        "DATASETS.TEST": (),
        "DATASETS.SPARSE_POINTS.FILE": "" if target.clicks is None else str(folder / TRAIN_CLICKS),
        "DATASETS.SPARSE_POINTS.RATIO": 0.0 if target.clicks is None else 1.0,
        "DATALOADER.NUM_WORKERS": min(start_cfg.DATALOADER.NUM_WORKERS, max((os.cpu_count() or 1) // 2, 1)),
        "DOMAIN_ADAPT.ENABLED": True,
        "DOMAIN_ADAPT.BURN_IN_ITERS": 0,
        "DOMAIN_ADAPT.POINTS.SUPERVISION_RADIUS": (
            start_cfg.DOMAIN_ADAPT.POINTS.SUPERVISION_RADIUS or SUPERVISION_SIGMAS * start_cfg.MODEL.CENTER_HEAD.SIGMA
        ),
        # A mask is more often right than a peak of the density, where the start is worth adapting at all.
        "DOMAIN_ADAPT.POINTS.PROMPT_TEACHER": False,
        # Prompts that the teacher's masks do not depend on would teach the student to ignore clicks.
        "DOMAIN_ADAPT.UNPROMPTED_PROBABILITY": 1.0,
        TEACHER_CONFIDENCE: start_cfg.TEST.MIN_CONFIDENCE,
        # It is most of the loss at its start, and what it would teach takes longer than these minutes.
        "DOMAIN_ADAPT.USE_CONTRASTIVE": False,
        "SOLVER.BASE_LR": start_cfg.SOLVER.BASE_LR * LR_RATIO,
        "SOLVER.IMS_PER_BATCH": SOURCE_CROPS,
        "SEED": seed,
        "VIS_PERIOD": 0,
        "OUTPUT_DIR": str(folder),
    }
    return as_options(settings)


class Watched(NamedTuple):
    """What watches an adaptation; nothing does where there are no clicks.

    Attributes:
        score: of a network, at the held-out clicks.
        before: the score of the start.
        seconds: that it took.
    """

    score: HeldOutScore | None = None
    before: float | None = None
    seconds: float = 0.0


def watch_clicks(target: Target, held_out: SliceClicks, crop: CropReader, start: PromptDAS, sigma: float) -> Watched:
    """Score the starting network; for the arguments see :mod:`prompt_das.adaptation.held_out_clicks`."""
    score = HeldOutScore(ClickWindows(target.slices, held_out, crop), start, sigma)
    begun = time.monotonic()
    before = score(start)
    return Watched(score, before, time.monotonic() - begun)


def train(
    cfg: CfgNode, watched: Watched, *, resume: bool, progress: bool
) -> tuple[float | None, dict[str, Tensor] | None]:
    """Train -> the score that counts, see :class:`Adaptation`, and the weights to write; None: none are good enough."""
    score, before = watched.score, watched.before or 0.0
    seed_all_rng(cfg.SEED)
    watch = ClickWatch(cfg.TEST.EVAL_PERIOD, score, before=before, tolerance=TOLERANCE, progress=progress)
    trainer = build_trainer(cfg, watch)
    trainer.resume_or_load(resume=resume)
    run_folder.start(cfg)
    try:
        trainer.train()
    except FloatingPointError as error:
        if score is None:
            raise
        logger.warning("The training ended early, and what was good until then counts: %s", error)
    if score is None:
        return None, trainer.evaluated_model.state_dict()
    if watch.kept is None:
        return watch.last, None
    kept = read_checkpoint(Path(cfg.OUTPUT_DIR) / f"{BEST}.pth")
    return watch.kept, kept[trainer.checkpointer.weights_from]


def write_weights(path: Path, state: dict[str, Tensor], cfg: CfgNode, about: dict[str, Any]) -> None:
    """Write weights with the config of their network, and ``about`` them."""
    state = {name: value.cpu() for name, value in state.items()}
    if path.suffix == ".safetensors":
        notes = {"prompt_das.version": prompt_das.__version__, "prompt_das.adaptation": json.dumps(about)}
        export_weights(path, state, config_for_sharing(cfg), **notes)
        return
    with atomic_write(path) as part:
        torch.save({"model": state, CONFIG: config_for_sharing(cfg), "adaptation": about}, part)
