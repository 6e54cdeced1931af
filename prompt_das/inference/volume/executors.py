"""Where the slices of a volume are predicted: in this process, or by the workers of a Dask cluster.

A work is a function from some slices to an iterator of results, one for each slice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Work = Callable[[Sequence], Iterator]
Executor = Callable[[Work, Sequence], Iterator]

SLICES_AT_ONCE = 4  # of a Dask task: few, so that little is lost with a worker, but the next is read ahead


def run_here(work: Work, items: Sequence) -> Iterator:
    """All in this process, results in order."""
    return work(items)


@contextmanager
def dask_executor(address: str | None = None, workers: int | None = None) -> Iterator[Executor]:
    """An executor on a Dask cluster. Its workers must see input, weights and output under the same paths.

    A worker that dies is replaced or its slices go to others; results come in any order.

    Args:
        address: of a scheduler, "tcp://host:8786". None starts processes on this machine for as long as it lasts.
        workers: how many of these; by default one for each GPU, or for each core without a GPU.

    Raises:
        OSError: there is no scheduler at the address.
        RuntimeError: a slice has brought down several workers (raised while running).
    """
    from distributed import Client, LocalCluster  # here: a second to import, for those who want it

    if address is not None:
        with Client(address, timeout="20s") as client:
            yield _on(client)
        return
    workers = workers or torch.cuda.device_count() or len(os.sched_getaffinity(0))
    # Memory is bounded by the size of a slice; Dask's own limit would kill workers on large ones.
    local = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
    )
    with local as cluster, Client(cluster) as client:
        yield _on(client)


def device_of_worker(device: str) -> str:
    """Share out the GPUs of a machine among its Dask workers: "cuda" becomes "cuda:1" for the second worker.

    Elsewhere, on one GPU, and for a device with a number, the device stays as it is.
    """
    from distributed import get_worker

    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    try:
        name = get_worker().name
    except ValueError:  # not in a worker
        return device
    return f"cuda:{name % torch.cuda.device_count()}" if isinstance(name, int) else device


def _on(client: object) -> Executor:
    from distributed import KilledWorker, as_completed

    def run(work: Work, items: Sequence) -> Iterator:
        chunks = [items[start : start + SLICES_AT_ONCE] for start in range(0, len(items), SLICES_AT_ONCE)]
        futures = client.map(_all, [work] * len(chunks), chunks, pure=False)  # type: ignore[attr-defined]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except KilledWorker as error:
            raise RuntimeError(f"several workers died at the same slices, out of memory perhaps: {error}") from error

    return run


def _all(work: Work, items: Sequence) -> list:
    return list(work(items))
