"""Paths that will be written, compared with what is read, with what is there, and with what a file system takes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

MARKER = "made_by_prompt_das"  # in a folder that this program made, and may remove


def require_apart(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise ValueError if something would be written over a file or folder that is read, or into such a folder."""
    written = list(written)
    for source in read:
        for path in written:
            if overlap(path, source):
                raise ValueError(f"{path} would be written over the input {source}, or into it: choose another name")


def overlap(first: Path, second: Path) -> bool:
    """Whether two paths are one, or one lies inside the other."""
    first, second = first.resolve(), second.resolve()
    return first == second or first in second.parents or second in first.parents


def require_nameable(path: Path, longest_addition: int = 0) -> None:
    """Make the folder of ``path`` if need be, and check that something can be written there by that name.

    Args:
        longest_addition: bytes that names of temporary files beside it are longer.

    Raises:
        OSError: a name that is too long, a link that leads nowhere, a folder that cannot be made or written to.
    """
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to {path.readlink()}, which does not exist: remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    longest = os.pathconf(path.parent, "PC_NAME_MAX")
    length = len(os.fsencode(path.name)) + longest_addition
    if length > longest:
        raise OSError(f"{path}: the name is {length - longest} bytes too long, a file system takes {longest}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: no permission to write into {path.parent}")


def require_replaceable(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError for a file that is there, unless ``overwrite``, and for a folder in any case."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: choose another name for the file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; replace it with --overwrite, or choose another name")


def claim_folder(folder: Path, *, ignore: Iterable[str] = ()) -> bool:
    """Make a folder to work in, and mark it as this program's -> whether it was not marked before.

    Args:
        ignore: names of files in it that do not count, such as a lock.

    Raises:
        FileExistsError: there is something else by this name, or a folder of another program.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is in the way: move it, or choose another output")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MARKER).exists():
        return False
    others = sorted({path.name for path in folder.iterdir()} - set(ignore))
    if others:
        raise FileExistsError(
            f"{folder} was not made by this program (it holds {others[0]}): move it, or choose another output"
        )
    (folder / MARKER).touch()
    return True
