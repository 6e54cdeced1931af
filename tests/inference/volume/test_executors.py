"""Where slices are predicted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from prompt_das.inference.volume.executors import dask_executor, device_of_worker, run_here

import distributed
import pytest
import torch


def test_here_results_come_in_order() -> None:
    assert list(run_here(lambda items: (2 * item for item in items), [3, 1, 2])) == [6, 2, 4]


@pytest.mark.parametrize(
    ("device", "gpus", "worker", "expected"),
    [
        ("cuda", 2, 0, "cuda:0"),
        ("cuda", 2, 3, "cuda:1"),
        ("cuda", 1, 3, "cuda"),
        ("cuda:1", 2, 0, "cuda:1"),
        ("cpu", 2, 1, "cpu"),
        ("cuda", 2, "tcp://127.0.0.1:40000", "cuda"),  # a cluster of the user's, who has shared out the GPUs
    ],
)
def test_workers_of_a_machine_share_out_its_gpus(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, worker: int | str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(name=worker))
    assert device_of_worker(device) == expected


def test_outside_of_a_cluster_the_device_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_worker("cuda") == "cuda"


def double(items: Sequence[int]) -> Iterator[int]:
    return (2 * item for item in items)


def test_a_cluster_of_the_user() -> None:
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        dask_executor(cluster.scheduler_address) as run,
    ):
        assert sorted(run(double, range(11))) == list(range(0, 22, 2))
        assert list(run(double, [])) == []


def killed(items: Sequence[int]) -> Iterator[int]:
    raise distributed.KilledWorker("predict_slices", SimpleNamespace(address="tcp://worker"), 3)


def test_a_slice_that_brings_down_every_worker_is_an_error() -> None:
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        dask_executor(cluster.scheduler_address) as run,
        pytest.raises(RuntimeError, match="several workers died at the same slices"),
    ):
        list(run(killed, [1]))


def test_no_scheduler_at_the_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompt_das.inference.volume.executors._CONNECT", 0.5)
    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9: is it running"):
        dask_executor("tcp://127.0.0.1:9").__enter__()


def test_a_cluster_without_workers_is_an_error_when_patience_ends() -> None:
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        dask_executor(cluster.scheduler_address, patience=1.5) as run,
        pytest.raises(RuntimeError, match=r"the Dask scheduler of .* has no workers: start some"),
    ):
        list(run(double, [1]))


def serve_a_cluster(pipe: Any) -> None:
    """A scheduler with one worker, both in this process, which sends its address."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, protocol="tcp") as cluster:
        pipe.send(cluster.scheduler_address)
        time.sleep(600)


def one_a_second(items: Sequence[int]) -> Iterator[int]:
    for item in items:
        time.sleep(1)
        yield item


def test_a_scheduler_that_is_lost_ends_the_run_with_one_line(
    start_process: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = start_process(serve_a_cluster, theirs, daemon=True)
    assert ours.poll(120)
    with dask_executor(ours.recv()) as run:
        results = run(one_a_second, range(8))  # two tasks
        assert next(results) == 0
        begun = time.monotonic()
        process.kill()
        with pytest.raises(RuntimeError, match=r"^the Dask scheduler of tcp://.* is lost: start it again$"):
            list(results)
    assert time.monotonic() - begun < 60
    assert "Traceback" not in capfd.readouterr().err


def test_an_interrupt_while_the_workers_start_ends_them() -> None:
    """Ctrl-C at the start: raised when the workers have started, so that they can be closed."""
    before = set(multiprocessing.active_children())
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), dask_executor(None, workers=1):
        time.sleep(60)
    timer.join()
    assert not set(multiprocessing.active_children()) - before
