"""Several processes without a GPU."""

from __future__ import annotations

import importlib
import json
import multiprocessing.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import read_checkpoint
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.launch import explain_failures, launch
from prompt_das.engine.trainer import build_trainer

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

WORKER = """
import json
import torch
import torch.distributed as dist
from detectron2.utils import comm

def main(folder):
    total = torch.tensor(10.0 ** comm.get_rank())
    dist.all_reduce(total)
    report = {
        "rank": comm.get_rank(), "local rank": comm.get_local_rank(), "world size": comm.get_world_size(),
        "local size": comm.get_local_size(), "sum": total.item(), "gathered": comm.all_gather(comm.get_rank()),
    }
    with open(f"{folder}/{comm.get_rank()}.json", "w") as file:
        json.dump(report, file)
    comm.synchronize()
    if comm.get_rank() == 1:
        raise ValueError("something is wrong with rank 1")
"""


def test_one_process_is_this_one() -> None:
    seen: list[int] = []
    launch(seen.append, 1, args=(3,))
    assert seen == [3]


@pytest.mark.usefixtures("quick_launch")
def test_two_processes_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They know who they are, can talk to each other, and the error of one is the error of the whole."""
    (tmp_path / "worker_of_test_launch.py").write_text(WORKER)  # importable, as a program's main function is
    monkeypatch.syspath_prepend(tmp_path)
    worker = importlib.import_module("worker_of_test_launch")
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="something is wrong with rank 1"):
        launch(worker.main, 2, args=(str(tmp_path),))
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "rank": rank,
            "local rank": rank,
            "world size": 2,
            "local size": 2,
            "sum": 11,
            "gathered": [0, 1],
        }


def test_several_machines_need_an_address() -> None:
    with pytest.raises(ValueError, match="--dist-url auto works on one machine only; give tcp://HOST:PORT"):
        launch(print, 1, num_machines=2)


# ---- one of several dies


def train(options: list[str], killed_at: int) -> None:
    """What a rank does; the second one kills itself in the middle of an iteration, with a worker at work."""
    torch.set_num_threads(1)
    seed_all_rng(0)
    trainer = build_trainer(get_prompt_das_cfg(None, options))
    ordinary = trainer._trainer.model.forward

    def forward(batch: list[dict[str, Any]]) -> Any:
        if trainer.iter == killed_at and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return ordinary(batch)

    trainer._trainer.model.forward = forward
    trainer.resume_or_load(resume=True)
    trainer.train()


def train_in_two_processes(options: list[str], killed_at: int) -> None:
    launch(train, 2, args=(options, killed_at))


def sleep_in_two_processes(folder: str) -> None:
    launch(sleep, 2, args=(folder,))


def sleep(folder: str) -> None:
    (Path(folder) / f"pid{comm.get_rank()}").write_text(str(os.getpid()))
    time.sleep(600)


def fail(folder: str) -> None:
    """Rank 0 has a full disk while the other waits for it. It would hang up a while before it is gone."""
    if comm.get_rank() == 0:
        multiprocessing.util.Finalize(None, hang_up_slowly, exitpriority=0)
        raise OSError("No space left on device")
    dist.all_reduce(torch.ones(1))


def hang_up_slowly() -> None:
    dist.destroy_process_group()
    time.sleep(5)


@pytest.fixture
def in_process(start_process: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Starts a launcher as a process of its own. All that it starts carries its mark, and is ended with the test."""
    jobs = []

    def start(target: Callable, *args: Any) -> Any:
        jobs.append(start_process(target, *args))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def alive(pid: int) -> bool:
    """Runs; a zombie, which was not waited for yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> set[int]:
    """All processes below one, of every generation."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


@pytest.mark.slow  # three launches of two processes each
def test_a_rank_is_killed_and_the_run_resumed(
    tiny: list[str],
    synthetic_data: Path,
    tmp_path: Path,
    in_process: Callable[..., Any],
    assert_same: Callable[..., None],
) -> None:
    """The launcher ends with an error, nothing stays behind, and with --resume it ends as if nothing had happened."""

    def options(folder: str) -> list[str]:
        changes = {
            "OUTPUT_DIR": tmp_path / folder,
            "MODEL.PRECISION": "float32",
            "DATASETS.TRAIN": "('synthetic_source_train',)",
            "DATALOADER.NUM_WORKERS": 1,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.MAX_ITER": 12,
            "SOLVER.WARMUP_ITERS": 2,
            "SOLVER.CHECKPOINT_PERIOD": 3,
            "VIS_PERIOD": 0,
        }
        return [*tiny, *(str(word) for pair in changes.items() for word in pair)]

    whole = in_process(train_in_two_processes, options("whole"), -1)
    job = in_process(train_in_two_processes, options("parts"), 7)
    below: set[int] = set()
    assert wait_for(lambda: bool(below.update(children(job.pid))) or not job.is_alive(), 300)
    assert job.exitcode == 1
    assert len(below) >= 4  # two ranks, a worker each
    assert wait_for(lambda: not any(map(alive, below)), 60)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000005.pth"

    again = in_process(train_in_two_processes, options("parts"), -1)
    for process in (again, whole):
        process.join(300)
        assert process.exitcode == 0
    assert_same(*(read_checkpoint(tmp_path / folder / "model_final.pth") for folder in ("parts", "whole")))


@pytest.mark.long
def test_the_launcher_is_killed(tmp_path: Path, in_process: Callable[..., Any]) -> None:
    """Its processes are spawned: only then it is their parent, whose death they are told."""
    job = in_process(sleep_in_two_processes, str(tmp_path))
    files = [tmp_path / "pid0", tmp_path / "pid1"]
    assert wait_for(lambda: all(file.exists() and file.read_text() for file in files), 120)
    job.kill()
    assert wait_for(lambda: not any(alive(int(file.read_text())) for file in files), 60)


@pytest.mark.usefixtures("quick_launch")
def test_a_rank_fails_while_the_other_waits(tmp_path: Path) -> None:
    """The error that is reported is the first one, not that of the rank that lost its partner."""
    with pytest.raises(
        torch.multiprocessing.ProcessRaisedException, match=r"(?s)No space left.*same command, --resume"
    ):
        launch(fail, 2, args=(str(tmp_path),))


def test_the_error_of_a_killed_process_names_its_cause() -> None:
    killed = torch.multiprocessing.ProcessExitedException("", 1, 4711, -signal.SIGKILL, "SIGKILL")
    with (
        pytest.raises(SystemExit, match=r"Process 1 was killed by SIGKILL.*memory.*--resume") as stop,
        explain_failures(),
    ):
        raise killed
    assert isinstance(stop.value.code, str)  # that is exit code 1, and the text on stderr
