"""The trainer: Detectron2's, with a two-stream loader, a mean teacher and its own solver plugged in."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

from prompt_das.adaptation.mean_teacher import MeanTeacher, make_teacher
from prompt_das.adaptation.monitor import PseudoLabelMonitor
from prompt_das.adaptation.pseudo_labels import PseudoLabeler, PseudoLabelLoader
from prompt_das.adaptation.pseudo_points import PseudoSparsePoints
from prompt_das.checkpoint.checkpointer import BEST, PromptDASCheckpointer
from prompt_das.data.build import SourceTargetLoader, build_test_loader, get_sparse_points
from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.engine.hooks.metric_buffer import MetricBuffer, StepRunner
from prompt_das.engine.hooks.nonfinite_guard import NonFiniteGuard
from prompt_das.engine.hooks.resume_state import MetricsState, RandomState
from prompt_das.engine.hooks.stopping import StopOnSignal
from prompt_das.engine.hooks.training_pictures import TrainingPictures
from prompt_das.engine.solver import ClippedAdamW, build_lr_scheduler, build_optimizer
from prompt_das.engine.writers import build_writers
from prompt_das.evaluation.evaluator import EMEvaluator
from prompt_das.modeling.meta_arch import PromptDAS

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

logger = logging.getLogger(__name__)

WRITE_PERIOD = 20  # iterations


class EvalHook(hooks.EvalHook):
    """Detectron2's, that evaluates at the end only where the run got there, not where it was stopped just before."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, that still knows the best value after a resume."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_metric, self.best_iter = state["best_metric"], state["best_iter"]


class PromptDASTrainer(DefaultTrainer):
    """Burn-in on the source and adaptation to the target in one run.

    Target images are labelled by the teacher in the loader, so the step is Detectron2's SimpleTrainer as it is.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer would build its own loader, and needs CUDA for several processes
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.teacher = cast(PromptDAS, make_teacher(model))
        if comm.get_world_size() > 1:
            device_ids = [comm.get_local_rank()] if torch.cuda.is_available() else None
            model = nn.parallel.DistributedDataParallel(
                model,
                device_ids=device_ids,
                broadcast_buffers=False,
                find_unused_parameters=True,  # the contrastive MLP rests during burn-in
            )
        corrupt = CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES)
        self.pseudo_points = PseudoSparsePoints(cfg, self.teacher, corrupt)
        unsupervised = cfg.DATASETS.SPARSE_POINTS.RATIO == 0 and not cfg.DATASETS.SPARSE_POINTS.FILE
        self.unsupervised = cfg.DOMAIN_ADAPT.ENABLED and unsupervised
        self.loader = SourceTargetLoader(
            cfg, self.pseudo_points.read if self.unsupervised else lambda: get_sparse_points(cfg, corrupt), corrupt
        )
        self.metrics = MetricBuffer(WRITE_PERIOD)
        labeler = PseudoLabeler(cfg, self.teacher, self.metrics.put)
        self._trainer = StepRunner(model, PseudoLabelLoader(self.loader, labeler), optimizer, self.metrics)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PromptDASCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            weights_from="teacher" if cfg.DOMAIN_ADAPT.TEACHER.EVALUATE else "model",
            trainer=weakref.proxy(self),
            teacher=self.teacher,
        )
        self.nonfinite_guard = NonFiniteGuard(cfg, model, cast(ClippedAdamW, optimizer))
        self.last_results: dict[str, Any] = {}
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the run in ``OUTPUT_DIR`` if asked to and if there is one, else start from ``MODEL.WEIGHTS``."""
        super().resume_or_load(resume)
        if self.start_iter == 0:
            self.teacher.load_state_dict(self.checkpointer.model.state_dict())
        self.loader.start_iter = self.start_iter

    def after_train(self) -> None:
        self.iter: int = min(
            self.iter, self.max_iter
        )  # one more, where a run was killed in its last evaluation and resumed
        super().after_train()

    # As in today's Detectron2; old builds leave the optimizer out of the checkpoint.
    def state_dict(self) -> dict[str, Any]:
        self.metrics.flush()  # the last values of all metrics are part of it
        return {**TrainerBase.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @property
    def evaluated_model(self) -> nn.Module:
        return self.teacher if self.cfg.DOMAIN_ADAPT.TEACHER.EVALUATE else self.checkpointer.model

    def build_hooks(self) -> list[hooks.HookBase | None]:
        cfg = self.cfg
        student = self._trainer.model
        period = cfg.TEST.EVAL_PERIOD
        writers = self.build_writers() if comm.is_main_process() else []
        ret: list[hooks.HookBase | None] = [
            RandomState(),
            MetricsState(Path(cfg.OUTPUT_DIR) / "metrics.json", writers),
            hooks.IterationTimer(),
            self.metrics,
            self.nonfinite_guard,
            MeanTeacher(self.teacher, student, cfg.DOMAIN_ADAPT.TEACHER.EMA_DECAY),
            self.pseudo_points if self.unsupervised else None,
            PseudoLabelMonitor(cfg) if cfg.DOMAIN_ADAPT.ENABLED else None,
            hooks.LRScheduler(),
            TrainingPictures(student, cfg.VIS_PERIOD) if comm.is_main_process() else None,
        ]
        if cfg.DATASETS.VAL:
            ret.append(EvalHook(period, self.validate))
            if comm.is_main_process():
                ret.append(BestCheckpointer(period, self.checkpointer, cfg.TEST.BEST_METRIC, file_prefix=BEST))
        if cfg.DATASETS.TEST:
            ret.append(EvalHook(0, self.final_test))  # at the end only
        if comm.is_main_process():
            ret.append(hooks.PeriodicWriter(writers, period=WRITE_PERIOD))
            ret.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        ret.append(StopOnSignal(self.checkpointer))
        return ret

    def validate(self) -> dict[str, Any]:
        """Evaluate ``DATASETS.VAL`` without files; the first of several decides about the best checkpoint."""
        results = evaluate(self.cfg, self.evaluated_model, self.cfg.DATASETS.VAL, write=False)
        return next(iter(results.values()))

    def final_test(self) -> dict[str, Any]:
        self.last_results = self.test(self.cfg, self.evaluated_model)
        return {"test": self.last_results}  # validation has written its own numbers under the plain names

    def train(self) -> dict[str, Any]:
        """Run training -> the results on ``DATASETS.TEST``; {} without test datasets, and on ranks other than 0.

        Raises:
            SystemExit: it was asked to stop, see :class:`~prompt_das.engine.hooks.stopping.StopOnSignal`.
        """
        self.last_results = {}
        TrainerBase.train(self, self.start_iter, self.max_iter)
        return self.last_results

    def build_writers(self) -> list:
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: None = None) -> dict[str, Any]:
        """Evaluate ``DATASETS.TEST``; tables and pictures go to ``OUTPUT_DIR/inference``."""
        results = evaluate(cfg, model, cfg.DATASETS.TEST, write=True)
        return next(iter(results.values())) if len(results) == 1 else results


def evaluate(cfg: CfgNode, model: nn.Module, names: tuple[str, ...], *, write: bool) -> dict[str, dict[str, Any]]:
    """Evaluate ``model`` on labelled datasets. Ranks other than 0 get empty results.

    Args:
        write: keep per-slice results, tables and pictures in ``OUTPUT_DIR/inference/<name>``.
    """
    results: dict[str, dict[str, Any]] = OrderedDict()
    for name in names:
        loader = build_test_loader(cfg, name)
        evaluator = EMEvaluator(
            name,
            protocols=cfg.TEST.PROTOCOLS,
            min_size=cfg.TEST.MIN_INSTANCE_SIZE,
            output_dir=Path(cfg.OUTPUT_DIR) / "inference" / name if write else None,
            save_rle=cfg.TEST.SAVE_RLE and write,
            num_pictures=cfg.TEST.NUM_PICTURES,
        )
        results[name] = inference_on_dataset(model, loader, evaluator)
    return results
