"""Files that outlast a loss of power: brought to the disk, and compared with what was written.

A receipt is what a file or folder was when it was written: how many files, bytes, and a checksum over all of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from prompt_das.utils.atomic_write import sync_folder


class Receipt(TypedDict):
    """Number of files, their bytes, and the CRC-32 of their names and contents."""

    files: int
    bytes: int
    crc32: int


def sync_tree(path: Path) -> None:
    """Flush a file, or all files and folders below a folder and itself, to the disk. What is missing is no error."""
    for file in _files(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if path.is_dir():
        for folder, _, _ in os.walk(path, topdown=False):
            sync_folder(Path(folder))


def make_receipt(*paths: Path) -> Receipt:
    """Read files, or all files below folders, and return their receipt. What is missing counts as no files."""
    files = size = crc = 0
    for path in paths:
        for file in _files(path):
            content_size, crc = _checksum(file, zlib.crc32(os.fsencode(file.relative_to(path)), crc))
            files, size = files + 1, size + content_size
    return Receipt(files=files, bytes=size, crc32=crc)


class Written(NamedTuple):
    """Files or folders as they were when they were written, and the key by which they are known."""

    key: Any
    paths: tuple[Path, ...]
    receipt: Receipt


def check_receipts(items: Sequence[Written]) -> Iterator[tuple[Any, bool]]:
    """Compare what is there with its receipt: each key, and whether it is as it was written."""
    for item in items:
        yield item.key, make_receipt(*item.paths) == item.receipt


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)


def _checksum(file: Path, crc: int) -> tuple[int, int]:
    size = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return size, crc
