"""Detectron2's ``launch``, which old builds only offer with CUDA, on CPU processes as well."""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as d2_launch
from detectron2.utils import comm

from .stopping import RESUME_ME, signals_passed_on


def launch(
    main: Callable,
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
) -> Any:
    """Run ``main(*args)`` in ``num_processes`` processes on each of ``num_machines`` machines: one a GPU, or on CPU.

    SIGTERM and SIGINT reach all of them, see :mod:`prompt_das.engine.stopping`.
    """
    world_size = num_processes * num_machines
    if world_size == 1:
        return d2_launch(main, num_processes, num_machines, machine_rank, dist_url, args)
    if torch.cuda.is_available():
        together = functools.partial(_leave_together, main)
        with signals_passed_on():
            return d2_launch(together, num_processes, num_machines, machine_rank, dist_url, args)
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError("--dist-url auto works on one machine only; give tcp://HOST:PORT of the first machine")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            dist_url = f"tcp://127.0.0.1:{s.getsockname()[1]}"
    with signals_passed_on():
        mp.spawn(
            _cpu_worker, nprocs=num_processes, args=(main, world_size, num_processes, machine_rank, dist_url, args)
        )
    return None


def _leave_together(main: Callable, *args: Any) -> Any:
    """No process may hang up while another still works, also where all were asked to stop."""
    try:
        return main(*args)
    except SystemExit as e:
        if e.code == RESUME_ME:
            comm.synchronize()
        raise


def _cpu_worker(
    local_rank: int, main: Callable, world_size: int, num_local: int, machine_rank: int, dist_url: str, args: tuple
) -> None:
    dist.init_process_group(
        "gloo", init_method=dist_url, world_size=world_size, rank=machine_rank * num_local + local_rank
    )
    for machine in range(world_size // num_local):
        group = dist.new_group(list(range(machine * num_local, (machine + 1) * num_local)))
        if machine == machine_rank:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
    code = 0
    try:
        main(*args)
    except SystemExit as e:
        if e.code != RESUME_ME:
            raise
        code = RESUME_ME
    comm.synchronize()  # no process may hang up while another still works
    dist.destroy_process_group()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # an interpreter that exits in the usual way is now and then aborted by one of gloo's threads
