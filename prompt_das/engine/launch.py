"""Detectron2's ``launch``, which old builds only offer with CUDA, on CPU processes as well."""

from __future__ import annotations

import functools
import logging
import multiprocessing.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prompt_das.engine.hooks.stopping import EXIT_RESUMABLE, forward_signals

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as d2_launch
from detectron2.utils import comm


def launch(
    main: Callable,
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
) -> Any:
    """Run ``main(*args)`` in ``num_processes`` processes on each of ``num_machines`` machines: one a GPU, or on CPU.

    SIGTERM and SIGINT reach all of them, see :mod:`prompt_das.engine.hooks.stopping`. They end together: if one dies or
    fails, torch sends the others SIGTERM, and half a minute later SIGKILL; when this process dies, it sends SIGINT.

    Raises:
        SystemExit: one of them was killed, or ended with another exit code than 0.
        torch.multiprocessing.ProcessRaisedException: one of them raised an exception; its traceback is in the message.
    """
    world_size = num_processes * num_machines
    if world_size == 1:
        return d2_launch(main, num_processes, num_machines, machine_rank, dist_url, args)
    if num_machines > 1 and dist_url == "auto":
        raise ValueError("--dist-url auto works on one machine only; give tcp://HOST:PORT of the first machine")
    if torch.cuda.is_available():
        main = functools.partial(_exit_together, main)
        with explain_failures(), forward_signals():
            return d2_launch(main, num_processes, num_machines, machine_rank, dist_url, args)
    with tempfile.TemporaryDirectory() as folder, explain_failures(), forward_signals():
        if dist_url == "auto":
            dist_url = f"file://{folder}/rendezvous"  # a port could be taken by another run meanwhile
        mp.spawn(
            _cpu_worker, nprocs=num_processes, args=(main, world_size, num_processes, machine_rank, dist_url, args)
        )
    return None


@contextmanager
def explain_failures() -> Iterator[None]:
    """Add to the error of a failed process that the others were ended, and how to go on."""
    resume = "The other processes were ended. A training continues from its last checkpoint: same command, --resume."
    try:
        yield
    except mp.ProcessRaisedException as e:
        raise mp.ProcessRaisedException(f"{e}\n{resume}", e.error_index, e.error_pid) from None
    except mp.ProcessExitedException as e:
        how = f"was killed by {e.signal_name}" if e.signal_name else f"ended with exit code {e.exit_code}, see above"
        why = ", most often because the memory was full" if e.signal_name == "SIGKILL" else ""
        raise SystemExit(f"Process {e.error_index} {how}{why}. {resume}") from None


def _exit_together(main: Callable, *args: Any) -> Any:
    """Run ``main``; if it was stopped, wait for the other processes: none may close its connections while one works."""
    try:
        return main(*args)
    except SystemExit as e:
        if e.code == EXIT_RESUMABLE:
            comm.synchronize()
        raise


def _cpu_worker(
    local_rank: int, main: Callable, world_size: int, num_local: int, machine_rank: int, dist_url: str, args: tuple
) -> None:
    """Run ``main(*args)`` as one process of a gloo group, and exit together with the others."""
    if world_size == num_local and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # this machine only, and no host name to resolve
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
        if e.code != EXIT_RESUMABLE:
            raise
        code = EXIT_RESUMABLE
    except Exception:
        # After torch has stored the traceback: with connections closed earlier, the others would fail first.
        multiprocessing.util.Finalize(None, _exit_at_once, args=(1,), exitpriority=0)
        raise
    comm.synchronize()  # no process may close its connections while another works
    dist.destroy_process_group()
    _exit_at_once(code)


def _exit_at_once(code: int) -> None:
    """End this process. An interpreter that exits in the usual way is now and then aborted by one of gloo's threads."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
