"""Where slices are predicted."""

from __future__ import annotations

from types import SimpleNamespace

from prompt_das.inference.executors import device_of_worker, run_here

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
