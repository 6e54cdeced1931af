"""Training: Detectron2's SimpleTrainer, a two-stream loader whose target images the teacher labels, and hooks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from prompt_das.adaptation.mean_teacher import MeanTeacher, make_teacher, unwrap
from prompt_das.adaptation.monitor import PseudoLabelMonitor
from prompt_das.adaptation.pseudo_labels import PseudoLabeler, PseudoLabelLoader
from prompt_das.adaptation.pseudo_points import PseudoSparsePoints, makes_pseudo_points
from prompt_das.checkpoint.checkpointer import BEST, PromptDASCheckpointer
from prompt_das.config.schedule import adaptation_start, num_iterations
from prompt_das.data.build import SourceTargetLoader
from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.data.sparse_points import get_sparse_points
from prompt_das.engine import evaluate
from prompt_das.engine.hooks.evaluation import BestCheckpointer, EvalHook, FinalTest, RecallCheckpointer
from prompt_das.engine.hooks.metric_buffer import MetricBuffer
from prompt_das.engine.hooks.nonfinite_guard import NonFiniteGuard
from prompt_das.engine.hooks.resume_state import MetricsState, RandomState
from prompt_das.engine.hooks.source_model import SourceModelCheckpointer
from prompt_das.engine.hooks.stopping import StopOnSignal
from prompt_das.engine.hooks.training_pictures import TrainingPictures
from prompt_das.engine.solver import ClippedAdamW, build_lr_scheduler, build_optimizer
from prompt_das.engine.writers import build_writers
from prompt_das.modeling.load import build_model
from prompt_das.modeling.meta_arch import PromptDAS

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer, hooks
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import setup_logger
from torch import Tensor, nn

WRITE_PERIOD = 20  # iterations
MakeHooks = Callable[["PromptDASTrainer"], Sequence[hooks.HookBase]]


class PromptDASTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with a teacher and a checkpointer. :func:`build_trainer` builds one from a config."""

    def __init__(
        self,
        student: nn.Module,
        teacher: PromptDAS,
        loader: SourceTargetLoader,
        labeler: PseudoLabeler,
        optimizer: torch.optim.Optimizer,
        metrics: MetricBuffer,
        *,
        max_iter: int,
        output_dir: str,
        weights: str = "",
        weights_from: str = "teacher",
        config: str = "",
    ) -> None:
        """
        Args:
            student: the network to train, or DistributedDataParallel around it.
            loader: of (source samples, target samples); the ``labeler`` labels the latter.
            metrics: where the losses go.
            weights: file to start from; "" for the weights that the student has.
            weights_from: whose weights to take of a training checkpoint, and which model is evaluated: "teacher" or
                "model", the student.
            config: YAML of the run's config, for its checkpoints.
        """
        super().__init__(student, PseudoLabelLoader(loader, labeler), optimizer)
        self.teacher = teacher
        self.loader = loader
        self.metrics = metrics
        self.max_iter = max_iter
        self.weights = weights
        self.checkpointer = PromptDASCheckpointer(
            unwrap(student),
            output_dir,
            weights_from=weights_from,
            config=config,
            trainer=weakref.proxy(self),
            teacher=teacher,
        )
        self.evaluated_model = teacher if weights_from == "teacher" else unwrap(student)

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the run in ``output_dir`` if there is one and ``resume``, else start from ``weights``."""
        self.checkpointer.resume_or_load(self.weights, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1
        else:
            self.teacher.load_state_dict(self.checkpointer.model.state_dict())
        self.loader.start_iter = self.start_iter

    def train(self) -> dict[str, Any]:
        """Run training -> the results on ``DATASETS.TEST``; {} without test datasets, and on ranks other than 0.

        Raises:
            SystemExit: stopped by a signal, see :class:`~prompt_das.engine.hooks.stopping.StopOnSignal`.
        """
        super().train(self.start_iter, self.max_iter)
        tests = [hook for hook in self._hooks if isinstance(hook, FinalTest)]
        return tests[0].results if tests else {}

    def after_train(self) -> None:
        # A run that was killed in its last evaluation and resumed has one iteration more.
        self.iter: int = min(self.iter, self.max_iter)
        super().after_train()

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        get_event_storage().put_scalar(f"{prefix}data_time", data_time)
        self.metrics.put({f"{prefix}total_loss": torch.stack(list(loss_dict.values())).sum(), **loss_dict})

    def state_dict(self) -> dict[str, Any]:
        self.metrics.flush()  # the last values of all metrics are part of it
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checkpoints of earlier releases have the optimizer under ``_trainer``."""
        super().load_state_dict({**state_dict.get("_trainer", {}), **state_dict})


def build_trainer(cfg: CfgNode, make_validation: MakeHooks | None = None) -> PromptDASTrainer:
    """Burn-in on the source and adaptation to the target in one run, as ``cfg`` describes them.

    ``make_validation``: makes the hooks that evaluate a trainer's model and keep the best checkpoint; by default
    :func:`validation_hooks`.
    """
    if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
        setup_logger()
    network = build_model(cfg)
    optimizer = build_optimizer(cfg, network)
    teacher = cast(PromptDAS, make_teacher(network))
    student = distribute(network)
    corrupt = CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES)
    pseudo_points = PseudoSparsePoints(cfg, teacher, corrupt) if makes_pseudo_points(cfg) else None
    read_points = pseudo_points.read if pseudo_points else partial(get_sparse_points, cfg, corrupt)
    metrics = MetricBuffer(WRITE_PERIOD)
    trainer = PromptDASTrainer(
        student,
        teacher,
        SourceTargetLoader(cfg, read_points, corrupt),
        PseudoLabeler(cfg, teacher, metrics.put, iteration=lambda: get_event_storage().iter),
        optimizer,
        metrics,
        max_iter=num_iterations(cfg),
        output_dir=cfg.OUTPUT_DIR,
        weights=cfg.MODEL.WEIGHTS,
        weights_from="teacher" if cfg.DOMAIN_ADAPT.TEACHER.EVALUATE else "model",
        config=cfg.dump(),
    )
    trainer.register_hooks(build_hooks(cfg, trainer, optimizer, pseudo_points, make_validation))
    return trainer


def distribute(model: nn.Module) -> nn.Module:
    """``model`` itself, or with several processes DistributedDataParallel around it, on GPUs or CPUs."""
    if comm.get_world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[comm.get_local_rank()] if torch.cuda.is_available() else None,
        broadcast_buffers=False,
        find_unused_parameters=True,  # the contrastive MLP is not used during burn-in
    )


def build_hooks(
    cfg: CfgNode,
    trainer: PromptDASTrainer,
    optimizer: ClippedAdamW,
    pseudo_points: PseudoSparsePoints | None,
    make_validation: MakeHooks | None = None,
) -> list[hooks.HookBase | None]:
    """All hooks in their order: weights are updated first, then evaluated, then written; stopping comes last."""
    main = comm.is_main_process()
    checkpointer, model = trainer.checkpointer, trainer.evaluated_model
    node = cfg.DOMAIN_ADAPT.TEACHER
    monitor = PseudoLabelMonitor(cfg) if cfg.DOMAIN_ADAPT.ENABLED else None
    writers = build_writers(cfg.OUTPUT_DIR, trainer.max_iter) if main else []
    return [
        RandomState(),
        MetricsState(Path(cfg.OUTPUT_DIR) / "metrics.json", writers),
        hooks.IterationTimer(),
        trainer.metrics,
        NonFiniteGuard(cfg, trainer.model, optimizer),
        MeanTeacher(trainer.teacher, trainer.model, node.EMA_DECAY, node.RAMP_UP and not cfg.MODEL.WEIGHTS),
        pseudo_points,
        SourceModelCheckpointer(checkpointer, adaptation_start(cfg)) if cfg.DOMAIN_ADAPT.ENABLED and main else None,
        monitor,
        hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
        TrainingPictures(trainer.model, cfg.VIS_PERIOD) if main else None,
        *(make_validation(trainer) if make_validation else validation_hooks(cfg, trainer, monitor)),
        FinalTest(lambda: evaluate.test(cfg, model)) if cfg.DATASETS.TEST else None,
        hooks.PeriodicWriter(writers, period=WRITE_PERIOD) if main else None,
        hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
        StopOnSignal(checkpointer),
    ]


def validation_hooks(
    cfg: CfgNode, trainer: PromptDASTrainer, monitor: PseudoLabelMonitor | None
) -> list[hooks.HookBase]:
    """Evaluation on ``DATASETS.VAL`` and the best checkpoint by it; without, the best one by recall on the points."""
    period, checkpointer, main = cfg.TEST.EVAL_PERIOD, trainer.checkpointer, comm.is_main_process()
    if not cfg.DATASETS.VAL:
        return [RecallCheckpointer(period, checkpointer, monitor.recall)] if monitor and main else []
    validate = EvalHook(period, partial(evaluate.validate, cfg, trainer.evaluated_model))
    best = [BestCheckpointer(period, checkpointer, cfg.TEST.BEST_METRIC, file_prefix=BEST)] if main else []
    return [validate, *best]
