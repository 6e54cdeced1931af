"""Zarr files whose chunks inflate to whatever a test wants."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import zarr


def inflating(data: bytes) -> dict[str, tuple[dict[str, Any], bytes]]:
    """By name: the compressor and the chunk of an array (2, 8, 8) whose first slice inflates to ``data``."""
    return {
        "zstd": ({"id": "zstd", "level": 1}, numcodecs.Zstd(1).encode(data)),
        "zstd, size not written": ({"id": "zstd", "level": 1}, zstd_stream(data)),
        "blosc": ({"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 0}, numcodecs.Blosc().encode(data)),
        "lz4": ({"id": "lz4", "acceleration": 1}, numcodecs.LZ4().encode(data)),
        "bz2": ({"id": "bz2", "level": 9}, bz2.compress(data)),
        "lzma": ({"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}, lzma.compress(data)),
        "zlib": ({"id": "zlib", "level": 1}, zlib.compress(data)),
        "gzip": ({"id": "gzip", "level": 1}, gzip.compress(data)),
    }


def zstd_stream(data: bytes) -> bytes:
    """A frame that does not say how large it is: raw blocks of at most 100 kB."""
    blocks = [data[i : i + 100_000] for i in range(0, len(data), 100_000)]
    headers = [struct.pack("<I", len(b) << 3 | (i == len(blocks) - 1))[:3] for i, b in enumerate(blocks)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(h + b for h, b in zip(headers, blocks))


def zarr_of_format_2(path: Path, compressor: dict[str, Any], chunk: bytes) -> Path:
    zarr.create_array(str(path), shape=(2, 8, 8), chunks=(1, 8, 8), dtype="u1", zarr_format=2)
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**metadata, "compressor": compressor}))
    (path / "0.0.0").write_bytes(chunk)
    return path
