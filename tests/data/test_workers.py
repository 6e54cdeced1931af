"""``tools/train_net.py`` with loader workers: the same results as without, no process left behind, and never a hang."""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_das.data.workers import MonitoredDataLoader
from prompt_das.engine.hooks.stopping import EXIT_RESUMABLE

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "quick" / "synthetic_uda.yaml"
PROMPTLY = 60  # seconds, on a busy machine; a hang lasts for ever
# Both streams, points that the source model makes, evaluations between and at the end.
RUN = {
    "MODEL.PRECISION": "float32",
    "SOLVER.MAX_ITER": 20,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "DATALOADER.NUM_WORKERS": 2,
    "DATALOADER.TARGET_IMS_PER_BATCH": 2,
    "DATASETS.VAL": "('synthetic_target_val[0:1]',)",
    "DATASETS.TEST": "('synthetic_target_val',)",
    "TEST.EVAL_PERIOD": 10,
    "VIS_PERIOD": 0,
    "DOMAIN_ADAPT.BURN_IN_ITERS": 8,
}
SUMMARY = "inference/synthetic_target_val/summary.json"


def train_net(arguments: list[str], log: Path) -> None:
    """What a new process does, in a session of its own, so that its workers are known when it is gone."""
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["train_net.py", *arguments]
    runpy.run_path(str(ROOT / "tools" / "train_net.py"), run_name="__main__")


class Job:
    """``tools/train_net.py`` in a process of its own."""

    def __init__(self, start_process: Callable[..., Any], arguments: list[str], log: Path) -> None:
        self.process = start_process(train_net, arguments, log)
        self.log = log

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def text(self) -> str:
        return self.log.read_text()

    def workers(self) -> list[int]:
        """Processes of its session other than itself."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            if int(session) == self.pid and state != "Z" and int(stat.parent.name) != self.pid:
                found.append(int(stat.parent.name))
        return sorted(found)

    def ends(self, promptly: float = PROMPTLY) -> int | None:
        """Its exit code. It must end in time, and nothing of it may stay."""
        self.process.join(promptly)
        assert self.process.exitcode is not None, f"it hangs: {self.text[-2000:]}"
        wait_for(lambda: not self.workers(), f"the workers {self.workers()} to end")
        return self.process.exitcode

    def kill(self) -> None:
        for pid in (self.pid, *self.workers()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.join()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PROMPTLY
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"waited {PROMPTLY} s for {what}")


def arguments(tiny: list[str], folder: Path, *flags: str, **options: Any) -> list[str]:
    given = {**RUN, "OUTPUT_DIR": folder, **{name.replace("__", "."): value for name, value in options.items()}}
    return [*flags, "--config-file", str(CONFIG), *tiny, *(str(word) for pair in given.items() for word in pair)]


@pytest.fixture
def start(
    tiny: list[str], synthetic_data: Path, tmp_path: Path, start_process: Callable[..., Any]
) -> Iterator[Callable[..., Job]]:
    """``start(folder, flags, KEY__OF__CONFIG=value)``; whatever is left of a job is killed after the test."""
    jobs: list[Job] = []

    def start(folder: Path, *flags: str, **options: Any) -> Job:
        log = tmp_path / f"log{len(jobs)}.txt"
        jobs.append(Job(start_process, arguments(tiny, folder, *flags, **options), log))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


@pytest.fixture(scope="module")
def alone(
    tiny: list[str],
    synthetic_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    start_process: Callable[..., Any],
) -> Path:
    """The folder of a run without workers."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_root))
        job = Job(start_process, arguments(tiny, folder / "run", DATALOADER__NUM_WORKERS=0), folder / "log.txt")
    try:
        assert job.ends(2 * PROMPTLY) == 0, job.text  # the first one waits for the imports
    finally:
        job.kill()
    return folder / "run"


def begun(job: Job, folder: Path) -> list[int]:
    """The workers of a run that has begun, as soon as there is something to resume from."""
    wait_for(lambda: (folder / "last_checkpoint").exists() or job.process.exitcode is not None, "a checkpoint")
    assert job.process.exitcode is None, job.text
    return job.workers()


def test_workers_make_no_difference(
    start: Callable[..., Job],
    alone: Path,
    tmp_path: Path,
    results_of: Callable[[Path], Any],
    assert_same: Callable[..., None],
) -> None:
    """Workers change neither the training, nor evaluations in its middle, nor the one at its end."""
    job = start(tmp_path / "run")
    assert job.ends() == 0, job.text
    assert_same(results_of(tmp_path / "run"), results_of(alone))
    assert (tmp_path / "run" / SUMMARY).read_text() == (alone / SUMMARY).read_text()


def test_workers_make_no_difference_to_an_evaluation(start: Callable[..., Job], alone: Path, tmp_path: Path) -> None:
    job = start(tmp_path / "run", "--eval-only", MODEL__WEIGHTS=alone / "model_final.pth")
    assert job.ends() == 0, job.text
    assert (tmp_path / "run" / SUMMARY).read_text() == (alone / SUMMARY).read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_a_training(start: Callable[..., Job], tmp_path: Path, number: signal.Signals) -> None:
    job = start(tmp_path / "run", SOLVER__MAX_ITER=100_000)
    assert len(begun(job, tmp_path / "run")) == 2
    os.kill(job.pid, number)
    assert job.ends() == (EXIT_RESUMABLE if number == signal.SIGTERM else -number), job.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_an_evaluation(
    start: Callable[..., Job], alone: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Also those that wait for somebody to take their slices, which are more than fits into a pipe."""
    job = start(
        tmp_path / "run",
        "--eval-only",
        MODEL__WEIGHTS=alone / "model_final.pth",
        DATASETS__TEST="('synthetic_target_train', 'synthetic_source_train')",
        TEST__WINDOW__STRIDE=1,
    )
    wait_for(lambda: len(job.workers()) == 2, "the workers")
    time.sleep(0.5)
    os.kill(job.pid, number)
    assert job.ends() == -number, job.text


@pytest.mark.long
def test_a_worker_that_is_killed_ends_the_run_and_it_goes_on_later(
    start: Callable[..., Job],
    alone: Path,
    tmp_path: Path,
    results_of: Callable[[Path], Any],
    assert_same: Callable[..., None],
) -> None:
    """As the system does where memory runs out."""
    folder = tmp_path / "run"
    job = start(folder)
    os.kill(begun(job, folder)[0], signal.SIGKILL)
    assert job.ends() == 1, job.text
    for text in ("a process that loads data", "exit code -9", "memory ran out", "DATALOADER.NUM_WORKERS", "--resume"):
        assert text in job.text
    again = start(folder, "--resume")
    assert again.ends() == 0, again.text
    assert_same(results_of(folder), results_of(alone))


# ---- slices that cannot be read


def test_an_unreadable_slice_ends_the_run_and_is_named(
    start: Callable[..., Job], spoil: Callable[[str], Path], tmp_path: Path
) -> None:
    path = spoil("source/im/im0001.png")
    job = start(tmp_path / "run")
    assert job.ends() == 1, job.text
    for text in (str(path), "DATALOADER.MAX_CORRUPT_SLICES allows for 0", "prompt-das check-data"):
        assert text in job.text


@pytest.mark.long
def test_with_unreadable_slices_left_out_a_run_that_was_killed_is_the_same_run(
    start: Callable[..., Job],
    spoil: Callable[[str], Path],
    tmp_path: Path,
    results_of: Callable[[Path], Any],
    assert_same: Callable[..., None],
) -> None:
    """Both streams have one; the source model makes no points on that of the target."""
    paths = [spoil("source/mito-train-v2/seg0001.tif"), spoil("target/im/im0002.png")]
    folder = tmp_path / "run"
    job = start(folder, DATALOADER__MAX_CORRUPT_SLICES=2)
    begun(job, folder)
    os.kill(job.pid, signal.SIGKILL)
    assert job.ends() == -signal.SIGKILL, job.text
    again = start(folder, "--resume", DATALOADER__MAX_CORRUPT_SLICES=2)
    alone = start(tmp_path / "alone", DATALOADER__MAX_CORRUPT_SLICES=2, DATALOADER__NUM_WORKERS=0)
    for job in (again, alone):
        assert job.ends() == 0, job.text
        assert [job.text.count(f"is skipped: {path}") for path in paths] == [1, 1]
    assert_same(results_of(folder), results_of(tmp_path / "alone"))


@pytest.mark.long
def test_an_evaluation_in_the_middle_stops_at_one_and_goes_on_when_it_is_mended(
    start: Callable[..., Job], spoil: Callable[[str], Path], synthetic_root: Path, tmp_path: Path
) -> None:
    """However many a training may leave out. The step before it was saved."""
    path = spoil("target/im/im0004.png")
    folder = tmp_path / "run"
    job = start(folder, DATALOADER__MAX_CORRUPT_SLICES=9)
    assert job.ends() == 1, job.text
    assert "cannot be evaluated, and is not skipped" in job.text
    assert str(path) in job.text
    assert not (folder / "inference").exists()
    assert (folder / "last_checkpoint").read_text() == "model_0000008.pth"  # evaluated after iteration 9
    path.write_bytes((synthetic_root / "synthetic/target/im/im0004.png").read_bytes())
    again = start(folder, "--resume")
    assert again.ends() == 0, again.text
    assert "Starting training from iteration 9" in again.text


def test_an_evaluation_by_itself_stops_at_one(
    start: Callable[..., Job], spoil: Callable[[str], Path], alone: Path, tmp_path: Path
) -> None:
    path = spoil("target/mito-val-v2/seg0005.tif")
    job = start(
        tmp_path / "run", "--eval-only", MODEL__WEIGHTS=alone / "model_final.pth", DATALOADER__MAX_CORRUPT_SLICES=9
    )
    assert job.ends() == 1, job.text
    assert str(path) in job.text
    assert not (tmp_path / "run" / SUMMARY).exists()


class BadThird(torch.utils.data.Dataset):
    """Forty numbers, of which the third cannot be read."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise ValueError("the third cannot be read")
        return index


def test_after_an_error_the_workers_are_gone_at_once() -> None:
    """Torch waits five seconds for each of them."""
    before = set(multiprocessing.active_children())
    begun = time.monotonic()
    with pytest.raises(ValueError, match="the third cannot be read"):
        list(MonitoredDataLoader(torch.utils.data.DataLoader(BadThird(), num_workers=2)))
    gc.collect()
    assert time.monotonic() - begun < 5
    for worker in set(multiprocessing.active_children()) - before:
        worker.join(timeout=1)
        assert not worker.is_alive()
