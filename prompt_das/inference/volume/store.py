"""The OME-Zarr that a job fills, in the job's folder: made once, checked whenever the job goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.durable import make_receipt, sync_tree
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.utils.atomic_write import sync_folder
from prompt_das.volumes.ome_zarr import finest

import zarr

logger = logging.getLogger(__name__)

STORE = "volume.zarr"  # in the folder of the job


def prepare_store(work: Workspace, create: Callable[[Path], object]) -> Any:
    """Make the store of a new job, or the metadata of one that goes on, and open it.

    Metadata are written once more at the end of a job. If that was interrupted, they may be half on the disk.

    Args:
        create: makes the store, equal ones each time.
    """
    store = work.folder / STORE
    if not any("created" in line for line in work.journal):
        create(store)
        sync_tree(store)
        work.log(created=True)
    else:
        fresh = store.with_name("fresh.zarr")
        create(fresh)
        for made in filter(Path.is_file, sorted(fresh.rglob("*"))):
            sync_tree(made)
            renewed = store / made.relative_to(fresh)
            made.replace(renewed)
            sync_folder(renewed.parent)
        shutil.rmtree(fresh)
    return zarr.open_group(str(store), mode="r+")


def paths_of_slice(group: Any, store: Path, maps: Iterable[str], z: int) -> list[Path]:
    """List the folders with the chunks of a slice, one for each map of ``group``, which lies in ``store``."""
    arrays = [finest(group, name) for name in maps]
    return [(store / array.path / array.metadata.encode_chunk_key((z, 0, 0))).parent.parent for array in arrays]


def intact_slices(work: Workspace, group: Any, maps: Sequence[str]) -> set[int]:
    """Slices that are done and are still as they were written; the others leave the journal."""
    store = work.folder / STORE

    def intact(line: Mapping[str, Any]) -> bool:
        if "slice" not in line:
            return True
        found: Any = make_receipt(*paths_of_slice(group, store, maps, line["slice"]))
        return found == line["receipt"]

    journal = [line for line in work.journal if intact(line)]
    if len(journal) < len(work.journal):
        lost = len(work.journal) - len(journal)
        logger.warning("%s: %d slices are damaged (did the machine lose power?) and are predicted again", store, lost)
        work.rewrite(journal)
    return {line["slice"] for line in journal if "slice" in line}
