"""A stop is requested: the step ends, a checkpoint is written, the exit code says that the run can be resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import read_checkpoint
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data import workers as workers_module
from prompt_das.data.build import build_stream_loader, build_test_loader
from prompt_das.data.workers import init_worker, raise_for_dead
from prompt_das.engine import evaluate
from prompt_das.engine.hooks.stopping import EXIT_RESUMABLE
from prompt_das.engine.launch import launch
from prompt_das.engine.trainer import PromptDASTrainer, build_trainer

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

pytestmark = pytest.mark.usefixtures("quiet_logging")
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def cfg(tiny_cfg: CfgNode, synthetic_data: Path) -> CfgNode:
    """Six iterations on the source, with no checkpoint but the last, and a test of two slices."""
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("synthetic_source_train",), ("synthetic_target_val",)
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 6, 6
    return tiny_cfg


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGUSR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something in the middle of an iteration."""

    def register(iteration: int, act: Callable[[], Any]) -> None:
        ordinary = PromptDASTrainer.run_step

        def run_step(trainer: PromptDASTrainer) -> None:
            if trainer.iter == iteration:
                act()
            ordinary(trainer)

        monkeypatch.setattr(PromptDASTrainer, "run_step", run_step)

    return register


def run(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_step_ends_and_is_saved(cfg: CfgNode, at: Callable[..., None], tmp_path: Path, number: int) -> None:
    at(2, signalled(number))
    with pytest.raises(SystemExit) as stop:
        run(cfg)
    assert stop.value.code == EXIT_RESUMABLE == 75
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (tmp_path / "inference").exists()
    assert run(cfg, resume=True)
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 5


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_at_once(
    cfg: CfgNode, at: Callable[..., None], tmp_path: Path, number: signal.Signals
) -> None:
    """What the process did before with signals holds again."""

    class EndedError(Exception):
        pass

    def end(*args: Any) -> None:
        raise EndedError

    before = signal.signal(number, end)
    at(2, lambda: (signalled(number)(), signalled(number)()))
    try:
        with pytest.raises(EndedError):
            run(cfg)
    finally:
        signal.signal(number, before)
    assert not (tmp_path / "last_checkpoint").exists()


def test_stopped_in_the_last_step_the_test_is_left_for_later(
    cfg: CfgNode, at: Callable[..., None], tmp_path: Path
) -> None:
    at(5, signalled(signal.SIGTERM))
    with pytest.raises(SystemExit):
        run(cfg)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not (tmp_path / "inference").exists()
    assert run(cfg, resume=True)


@pytest.mark.parametrize("finished_before", [False, True])
def test_the_final_test_is_left_at_once(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_before: bool
) -> None:
    if finished_before:
        run(cfg)
    with monkeypatch.context() as m:
        m.setattr(evaluate, "test", lambda *args: signalled(signal.SIGTERM)())
        with pytest.raises(SystemExit) as stop:
            run(cfg, resume=finished_before)
    assert stop.value.code == EXIT_RESUMABLE
    assert run(cfg, resume=True)


def test_a_checkpoint_of_the_same_step_is_not_written_twice(
    cfg: CfgNode, at: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    saved, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda *args: (saved.append(args[1].name), save(*args)))
    at(2, signalled(signal.SIGTERM))
    with pytest.raises(SystemExit):
        run(cfg)
    assert len(saved) == 3


def test_training_in_another_thread(cfg: CfgNode) -> None:
    """Python handles signals in the main thread only; a run elsewhere just does without."""
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(run(cfg)))
    thread.start()
    thread.join()
    assert results[0]


def test_the_loader_s_processes_outlive_the_signal() -> None:
    """A cluster signals all processes of a job. Without its workers the step in work could not end."""
    loader = build_stream_loader([{}], stream_process, batch_size=1, start_iter=0, max_iter=20, seed=(0,), workers=1)
    seen = []
    for batch in loader:
        if not seen:
            for number in SIGNALS:
                os.kill(batch[0], number)
            time.sleep(0.1)
        seen += batch
    assert len(seen) == 20
    assert seen[0] != os.getpid()


@pytest.mark.parametrize("late", [False, True])
def test_so_do_those_of_an_evaluation(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """In the middle of a run it is not given up for a signal, also where a process has hardly begun."""
    if late:
        monkeypatch.setattr(workers_module, "init_worker", lambda worker: (time.sleep(worker), init_worker(worker)))
    cfg.DATALOADER.NUM_WORKERS = 2
    before = set(multiprocessing.active_children())
    batches = iter(build_test_loader(cfg, "synthetic_target_train"))
    seen = [next(batches)]
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:
        for number in SIGNALS:
            assert worker.pid is not None
            os.kill(worker.pid, number)
    time.sleep(0.1)
    assert len([*seen, *batches]) == 4


def test_the_death_of_a_worker_waits_for_the_next_batch(cfg: CfgNode) -> None:
    """Raised in the middle of the writing of a checkpoint, for example, it would be taken for a full disk."""
    cfg.DATALOADER.NUM_WORKERS = 2
    before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
    batches = iter(build_test_loader(cfg, "synthetic_target_train"))
    next(batches)
    worker = (set(multiprocessing.active_children()) - before).pop()
    worker.kill()
    worker.join()
    assert signal.getsignal(signal.SIGCHLD) == handler
    with pytest.raises(RuntimeError, match=r"has ended with exit code -9\..*NUM_WORKERS.*--resume"):
        next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_connection_that_broke_is_the_death_of_a_worker() -> None:
    """It may die while it hands over a tensor, and the end of the connection is noticed before its own."""
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    with pytest.raises(RuntimeError, match="exit code -9"), raise_for_dead([worker]):
        hand_over_and_die(worker)
    worker.join()
    with pytest.raises(FileNotFoundError, match="a file"), raise_for_dead([]):
        raise FileNotFoundError("a file")


def hand_over_and_die(worker: multiprocessing.Process) -> None:
    worker.kill()
    raise ConnectionResetError


def stream_process(d: dict[str, Any], rng: np.random.Generator) -> int:
    return os.getpid()


# ---- several processes


def train(options: list[str]) -> None:
    torch.set_num_threads(1)
    run(get_prompt_das_cfg(None, options))


@pytest.mark.usefixtures("quick_launch")
def test_several_processes_stop_together(tiny: list[str], synthetic_data: Path, tmp_path: Path) -> None:
    """Only their parent, this process, is asked."""
    options = {
        "OUTPUT_DIR": tmp_path,
        "DATASETS.TRAIN": "('synthetic_source_train',)",
        "SOLVER.MAX_ITER": 100_000,
        "SOLVER.CHECKPOINT_PERIOD": 100_000,
    }
    words = [*tiny, *(str(word) for pair in options.items() for word in pair)]
    metrics, ended = tmp_path / "metrics.json", threading.Event()

    def stop_when_they_train() -> None:
        while not ended.wait(0.1):
            if metrics.exists() and metrics.read_text():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=stop_when_they_train)
    thread.start()
    try:
        with pytest.raises(SystemExit) as stop:
            launch(train, 2, args=(words,))
    finally:
        ended.set()
        thread.join()
    assert stop.value.code == EXIT_RESUMABLE
    last = (tmp_path / "last_checkpoint").read_text()
    assert last == f"model_{read_checkpoint(tmp_path / last)['iteration']:07d}.pth"


def leave_with_workers() -> None:
    loader = build_stream_loader([{}], stream_process, batch_size=1, start_iter=0, max_iter=9, seed=(0,), workers=1)
    next(iter(loader))
    raise SystemExit(EXIT_RESUMABLE)


def test_a_process_with_loader_workers_can_exit(start_process: Callable[..., Any]) -> None:
    """They ignore the SIGTERM that Python sends them at its exit, and it would wait for them without end."""
    process = start_process(leave_with_workers)
    process.join(60)
    assert process.exitcode == EXIT_RESUMABLE
