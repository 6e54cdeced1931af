"""Files and folders that are either complete or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` on leaving, and is removed after an error.

    The content is on the disk before the name is, so a crash or a full disk leaves the file of before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as f:
            os.fsync(f.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to fill; it becomes ``path`` on leaving, and is removed after an error.

    Raises:
        FileExistsError: there is something at ``path``, other than an empty folder. Raised before anything is done.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise FileExistsError(f"{path} exists already; choose another folder, or remove it")
    path = Path(os.path.abspath(path))  # also where it is "."
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk, so that what is removed next is not gone before they are there."""
    with suppress(OSError):  # some network file systems cannot, and the content of the files is safe already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
