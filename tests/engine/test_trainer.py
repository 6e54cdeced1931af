"""How the trainer puts its parts together: who starts from which weights, and what happens in which order."""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

from prompt_das.adaptation.mean_teacher import MeanTeacher
from prompt_das.adaptation.pseudo_points import PseudoSparsePoints
from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.float16 import to_float16
from prompt_das.checkpoint.safe_load import export_weights, read_checkpoint
from prompt_das.engine import evaluate
from prompt_das.engine.checks import check_run
from prompt_das.engine.hooks.evaluation import BestCheckpointer, EvalHook, FinalTest
from prompt_das.engine.hooks.metric_buffer import MetricBuffer
from prompt_das.engine.hooks.nonfinite_guard import NonFiniteGuard
from prompt_das.engine.hooks.resume_state import MetricsState, RandomState
from prompt_das.engine.hooks.stopping import StopOnSignal
from prompt_das.engine.hooks.training_pictures import TrainingPictures
from prompt_das.engine.setup import setup_run
from prompt_das.engine.trainer import PromptDASTrainer, build_trainer

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import hooks
from torch import Tensor

pytestmark = pytest.mark.usefixtures("quiet_logging")
SOURCE, TARGET, TEST = "synthetic_source_train", "synthetic_target_train", "synthetic_target_val"


@pytest.fixture
def cfg(tiny_cfg: CfgNode, synthetic_data: Path) -> CfgNode:
    """Three iterations on the source, with a checkpoint after each of them."""
    tiny_cfg.DATASETS.TRAIN = (SOURCE,)
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 3, 1
    return tiny_cfg


@pytest.fixture
def trained(cfg: CfgNode) -> dict[str, Any]:
    """Its checkpoint."""
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    run.train()
    return read_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)


# ---- weights to start from


def test_from_nothing_the_teacher_is_the_student(cfg: CfgNode) -> None:
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    assert_same(run.teacher.state_dict(), run.checkpointer.model.state_dict())
    assert run.start_iter == 0


@pytest.mark.parametrize("weights", ["", "start.pth"])
def test_only_the_teacher_of_a_network_that_starts_from_noise_follows_it_at_once(cfg: CfgNode, weights: str) -> None:
    cfg.MODEL.WEIGHTS = weights
    (teaching,) = (hook for hook in build_trainer(cfg)._hooks if isinstance(hook, MeanTeacher))
    assert teaching.ramp_up == (weights == "")


@pytest.mark.parametrize(("evaluate_teacher", "weights"), [(True, "teacher"), (False, "model")])
def test_student_and_teacher_start_from_the_same_weights_of_a_checkpoint(
    cfg: CfgNode, trained: dict[str, Any], tmp_path: Path, evaluate_teacher: bool, weights: str
) -> None:
    """Those that the key chooses: a teacher that started from noise would label the first target images at random."""
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    cfg.OUTPUT_DIR = str(tmp_path / "next")
    cfg.DOMAIN_ADAPT.TEACHER.EVALUATE = evaluate_teacher
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    assert_same(run.checkpointer.model.state_dict(), trained[weights])
    assert_same(run.teacher.state_dict(), trained[weights])
    assert run.start_iter == 0
    assert not run.optimizer.state


def test_a_run_starts_from_a_model_by_its_name(cfg: CfgNode, trained: dict[str, Any], models_home: Path) -> None:
    """Weights that were rounded to float16 are trained on in float32."""
    export_weights(models_home / "em-tiny.safetensors", to_float16(trained["teacher"]), "")
    cfg.MODEL.WEIGHTS = "em-tiny"
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    started = run.teacher.state_dict()
    torch.testing.assert_close(dict(started), dict(trained["teacher"]), rtol=2**-10, atol=1e-6)
    assert {value.dtype for value in started.values()} == {value.dtype for value in trained["teacher"].values()}


def test_a_resumed_run_has_its_own_teacher_back(cfg: CfgNode, trained: dict[str, Any]) -> None:
    run = build_trainer(cfg)
    run.resume_or_load(resume=True)
    assert_same(run.checkpointer.model.state_dict(), trained["model"])
    assert_same(run.teacher.state_dict(), trained["teacher"])
    assert run.start_iter == 3
    assert len(run.optimizer.state) > 0


@pytest.mark.parametrize("resumed_from", ["this release", "an earlier one"])
def test_the_state_of_an_earlier_release_is_read(
    cfg: CfgNode, trained: dict[str, Any], tmp_path: Path, resumed_from: str
) -> None:
    """Earlier the optimizer lay under ``_trainer``, beside a second, unused number of the iteration."""
    if resumed_from == "an earlier one":
        state = trained["trainer"]
        state["_trainer"] = {"iteration": 0, "optimizer": state.pop("optimizer")}
        torch.save(trained, tmp_path / "model_final.pth")
    run = build_trainer(cfg)
    run.resume_or_load(resume=True)
    assert (run.iter, run.start_iter) == (2, 3)
    moments = run.optimizer.state_dict()["state"]
    assert moments
    assert all(state["step"] == 3 for state in moments.values())


# ---- the order of things


def test_a_checkpoint_holds_the_teacher_of_its_own_step(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The average is moved before anything is saved: a copy after the first step, the plain mean after the third."""
    monkeypatch.setattr(PromptDASCheckpointer, "remove_older", lambda self, name: None)
    trained = request.getfixturevalue("trained")
    folder = Path(cfg.OUTPUT_DIR)
    students = [read_checkpoint(folder / f"model_{i:07d}.pth")["model"] for i in range(3)]
    first = read_checkpoint(folder / "model_0000000.pth")
    assert_same(first["teacher"], first["model"])
    for name, value in trained["teacher"].items():
        mean = torch.stack([student[name].double() for student in students]).mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-7, msg=name)


def test_evaluation_comes_after_the_teacher_and_before_the_checkpoint(cfg: CfgNode) -> None:
    cfg.DATASETS.VAL, cfg.DATASETS.TEST = (f"{TARGET}[0:1]",), (TEST,)
    order = [type(hook) for hook in build_trainer(cfg)._hooks]
    assert [kind for kind in order if kind is not hooks.IterationTimer] == [
        RandomState,
        MetricsState,
        MetricBuffer,
        NonFiniteGuard,
        MeanTeacher,
        hooks.LRScheduler,
        TrainingPictures,
        EvalHook,  # validation
        BestCheckpointer,  # reads its result
        FinalTest,
        hooks.PeriodicWriter,
        hooks.PeriodicCheckpointer,  # keeps what the best was, and what was written
        StopOnSignal,  # nothing of the step is left to do
    ]


def test_only_the_student_is_trained(cfg: CfgNode) -> None:
    run = build_trainer(cfg)
    optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in run.checkpointer.model.parameters()}
    assert not optimized & {id(p) for p in run.teacher.parameters()}


def test_the_source_model_is_kept_when_burn_in_ends(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.DATASETS.TARGET, cfg.DOMAIN_ADAPT.ENABLED, cfg.DOMAIN_ADAPT.BURN_IN_ITERS = (TARGET,), True, 2
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    run.train()
    source = read_checkpoint(tmp_path / "model_source.pth")
    assert source["iteration"] == 1
    assert_same(source["model"], read_checkpoint(tmp_path / "model_0000001.pth")["model"])
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_without_a_source_a_network_is_adapted_to_the_target_alone(
    cfg: CfgNode, trained: dict[str, Any], tmp_path: Path
) -> None:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TARGET, cfg.DOMAIN_ADAPT.ENABLED = (), (TARGET,), True
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(tmp_path / "model_final.pth"), str(tmp_path / "adapted")
    cfg.DOMAIN_ADAPT.POINTS.SUPERVISION_RADIUS = 2.0
    check_run(cfg)
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    run.train()
    adapted = read_checkpoint(tmp_path / "adapted" / "model_final.pth")
    assert adapted["iteration"] == 2
    assert any(not torch.equal(adapted["model"][name], value) for name, value in trained["model"].items())
    lines = (tmp_path / "adapted" / "metrics.json").read_text().splitlines()
    logged = {name for line in lines for name in json.loads(line)}
    assert {"loss_seg_target", "loss_det_target"} <= logged
    assert not {"loss_seg_source", "loss_det_source"} & logged


def test_a_network_without_weights_needs_a_source(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TARGET, cfg.DOMAIN_ADAPT.ENABLED = (), (TARGET,), True
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty"):
        check_run(cfg)


def test_training_on_the_synthetic_source_needs_no_data(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN, cfg.INPUT.CLICKS.ENABLED = ("synthetic",), True
    cfg.MODEL.PROMPT_ENCODER.NAME = "ClickPromptEncoder"
    check_run(cfg)
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    run.train()
    assert (Path(cfg.OUTPUT_DIR) / "model_final.pth").exists()


@pytest.mark.parametrize("key", ["VAL", "TEST", "TARGET"])
def test_only_training_draws_synthetic_micrographs(cfg: CfgNode, key: str) -> None:
    cfg.DATASETS[key], cfg.DOMAIN_ADAPT.ENABLED = ("synthetic",), key == "TARGET"
    with pytest.raises(ValueError, match=rf"DATASETS\.{key}: synthetic is drawn anew"):
        check_run(cfg)


# ---- settings


@pytest.mark.parametrize(
    ("ratio", "file", "enabled", "makes_points"),
    [(0.0, "", True, True), (0.15, "", True, False), (0.0, "mine.json", True, False), (0.0, "", False, False)],
)
def test_points_are_made_by_the_source_model_where_there_are_no_others(
    cfg: CfgNode, ratio: float, file: str, enabled: bool, makes_points: bool
) -> None:
    cfg.DATASETS.SPARSE_POINTS.RATIO, cfg.DATASETS.SPARSE_POINTS.FILE = ratio, file
    cfg.DATASETS.TARGET, cfg.DOMAIN_ADAPT.ENABLED = (TARGET,), enabled
    run = build_trainer(cfg)
    assert any(isinstance(hook, PseudoSparsePoints) for hook in run._hooks) is makes_points


def test_the_evaluator_has_the_settings_of_the_config(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate, "EMEvaluator", lambda name, **settings: seen.append({"name": name, **settings}))
    monkeypatch.setattr(evaluate, "inference_on_dataset", lambda model, loader, evaluator: {"Dice": len(seen)})
    cfg.TEST.PROTOCOLS, cfg.TEST.MIN_INSTANCE_SIZE, cfg.TEST.NUM_PICTURES = ("paper",), 7, 5
    cfg.TEST.SAVE_RLE = True
    cfg.DATASETS.TEST = (TEST, f"{TARGET}[0:1]")
    model = torch.nn.Identity()
    assert evaluate.test(cfg, model) == {TEST: {"Dice": 1}, f"{TARGET}[0:1]": {"Dice": 2}}
    first = seen[0]
    folder = Path(cfg.OUTPUT_DIR) / "inference" / TEST
    expected = {"protocols": ("paper",), "min_size": 7, "num_pictures": 5, "save_rle": True, "output_dir": folder}
    assert {key: first[key] for key in expected} == expected
    evaluate.evaluate(cfg, model, (TEST,), write=False)
    assert (seen[-1]["output_dir"], seen[-1]["save_rle"]) == (None, False)


@pytest.mark.usefixtures("quick_setup")
@pytest.mark.parametrize(("seed", "expected"), [(7, 7), (-1, 123)])
def test_all_processes_start_from_the_same_random_numbers(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, seed: int, expected: int
) -> None:
    """The Fourier frequencies are drawn by each of them. Without a seed, they take the one of the first process."""
    monkeypatch.setattr("prompt_das.engine.setup.comm.shared_random_seed", lambda: 123)
    cfg.SEED = seed
    setup_run(cfg, argparse.Namespace())
    assert torch.initial_seed() == expected


# ---- a full disk


def test_a_full_disk_stops_the_run_and_it_goes_on_later(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the second checkpoint on, the kernel refuses files as large as one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(run: PromptDASTrainer) -> None:
        if run.iter == 1:
            size = (tmp_path / "model_0000000.pth").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        ordinary(run)

    ordinary = PromptDASTrainer.run_step
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    try:
        with monkeypatch.context() as m:
            m.setattr(PromptDASTrainer, "run_step", fill)
            with pytest.raises(OSError, match=r"0000001\.pth could not be written.*0000000\.pth is intact.*--resume"):
                run.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("*.part"))
    again = build_trainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 1
    again.train()
    assert (tmp_path / "model_final.pth").is_file()
