"""Several processes without a GPU."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from prompt_das.engine.launch import launch

import pytest
import torch

WORKER = """
import json
import torch
import torch.distributed as dist
from detectron2.utils import comm

def main(folder):
    total = torch.tensor(10.0 ** comm.get_rank())
    dist.all_reduce(total)
    told = {
        "rank": comm.get_rank(), "local rank": comm.get_local_rank(), "world size": comm.get_world_size(),
        "local size": comm.get_local_size(), "sum": total.item(), "gathered": comm.all_gather(comm.get_rank()),
    }
    with open(f"{folder}/{comm.get_rank()}.json", "w") as file:
        json.dump(told, file)
    comm.synchronize()
    if comm.get_rank() == 1:
        raise ValueError("something is wrong with rank 1")
"""


def test_one_process_is_this_one() -> None:
    seen: list[int] = []
    launch(seen.append, 1, args=(3,))
    assert seen == [3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs it is Detectron2's own launch")
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs it is Detectron2's own launch")
def test_several_machines_need_an_address() -> None:
    with pytest.raises(ValueError, match="--dist-url auto works on one machine only; give tcp://HOST:PORT"):
        launch(print, 1, num_machines=2)
