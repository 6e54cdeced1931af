"""The files of a Zarr array, checked before Zarr decodes them.

A chunk may inflate to any size, whatever the metadata declare. A FIFO in place of a file is waited for without end.
Blosc, which most OME-Zarr files use, gives any values for what is missing at a chunk's end, and no error; other codecs
raise an error. A chunk that is not there at all was never written: its values are the fill value, by Zarr's
rules.

Errors are ValueError, with what is wrong: volume.py turns them into VolumeError and adds the path.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import math
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

_SLACK = 1024  # bytes by which a decoded chunk may exceed its values: checksums, padding
_DEFLATE_RATIO = 1032  # the most that Deflate inflates
_HARMLESS = 1 << 30  # bytes; what cannot inflate to more is not decoded as a check
_NEVER_WRITTEN = 2**64 - 1  # offset of an inner chunk that a shard does not hold


class RegularFiles(LocalStore):
    """A folder in which a FIFO or a device is an error: opening one would wait without end."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        _is_there(Path(self.root) / key)
        return await super().get(key, *args, **options)


def require_safe_codecs(array: zarr.Array) -> None:
    """Raises ValueError for codecs that would run code, or that could inflate a chunk several times over."""
    names = [_name(codec) for codec in (*array.filters, *array.compressors)]
    if "pickle" in names:
        raise ValueError("it is stored with Pickle, which can run any code when it is read")
    if sum(name in _DECODED_SIZE for name in names) > 1 or "sharding" in names:
        raise ValueError(f"its chunks are encoded several times over ({', '.join(names)})")


def require_sound_chunks(folder: Path, array: zarr.Array, region: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError for a chunk in ``folder`` that is cut off, or inflates to more than a chunk of the array holds.

    Args:
        folder: holds the chunks.
        array: its metadata.
        region: [start, stop) along each axis.
    """
    decoded_size = _DECODED_SIZE.get(_name(array.compressors[-1])) if array.compressors else None
    if decoded_size is None:
        return
    most = math.prod(array.chunks) * array.dtype.itemsize + _SLACK
    stored_in = array.shards or array.chunks  # the shape of a file's region
    for index in _cells(region, stored_in):
        file = folder / array.metadata.encode_chunk_key(index)
        if not _is_there(file):
            continue
        with open(file, "rb", buffering=0) as stream:
            whole = Encoded(stream, 0, file.stat().st_size)
            for encoded in [whole] if array.shards is None else _inner_chunks(whole, array, index, region):
                size = decoded_size(encoded, most)
                if size is None:
                    raise ValueError(f"its chunk {file} is damaged or incomplete")
                if size > most:
                    raise ValueError(f"its chunk {file} inflates to more than the {most - _SLACK:,} bytes of a chunk")


class Encoded(NamedTuple):
    """An encoded chunk: ``length`` bytes of a file from ``start`` on."""

    stream: BinaryIO
    start: int
    length: int

    def read(self, count: int | None = None) -> bytes:
        self.stream.seek(self.start)
        return self.stream.read(self.length if count is None else min(count, self.length))


def _is_there(file: Path) -> bool:
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{file} is not a regular file")
    return stat.S_ISREG(mode)


def _cells(region: Sequence[tuple[int, int]], shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Indices of the cells of a grid, each of ``shape``, that a region meets."""
    return itertools.product(*(range(a // n, (b - 1) // n + 1) for (a, b), n in zip(region, shape, strict=True)))


def _inner_chunks(
    shard: Encoded, array: zarr.Array, index: tuple[int, ...], region: Sequence[tuple[int, int]]
) -> Iterator[Encoded]:
    """The chunks of a shard that a region meets: its index, at one of its ends, holds their offsets and lengths."""
    codec = getattr(array.metadata, "codecs", (None,))[0]
    per_shard = tuple(outer // inner for outer, inner in zip(array.shards or array.chunks, array.chunks, strict=True))
    nbytes = 16 * math.prod(per_shard)
    if not isinstance(codec, ShardingCodec) or [type(one) for one in codec.index_codecs] != [BytesCodec, Crc32cCodec]:
        raise ValueError("the index of its shards is encoded in another way than this package reads")
    if shard.length < nbytes + 4:
        raise ValueError(f"its shard {index} is damaged or incomplete")
    at_end = codec.index_location.value == "end"
    table = Encoded(shard.stream, shard.length - nbytes - 4 if at_end else 0, nbytes).read()
    entries = np.frombuffer(table, "<u8").reshape(*per_shard, 2)
    for chunk in _cells(region, array.chunks):
        if all(c // n == i for c, n, i in zip(chunk, per_shard, index, strict=True)):
            start, length = map(int, entries[tuple(c % n for c, n in zip(chunk, per_shard, strict=True))])
            if start != _NEVER_WRITTEN:
                yield Encoded(shard.stream, start, length)


def _name(codec: Any) -> str:
    """Name of a codec of either of Zarr's formats, "zstd" for example."""
    name = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
    return str(name).removeprefix("numcodecs.").removesuffix("Codec").lower()


# Each takes an encoded chunk and the most that it may inflate to, and gives its size when it is decoded: exact, or
# anything above the most, or 0 where it cannot be more. None: it is damaged in a way that its codec does not detect.


def _blosc_size(encoded: Encoded, most: int) -> int | None:
    header = encoded.read(16)
    if len(header) < 16:
        return None
    decoded, stored = struct.unpack("<4xI4xI", header)
    return decoded if stored == encoded.length else None


def _zstd_size(encoded: Encoded, most: int) -> int:
    header = encoded.read(18)
    if len(header) < 18 or header[:4] != b"\x28\xb5\x2f\xfd":  # of many frames, or damaged
        return _zstd_size_by_decoding(encoded, most)
    flags = header[4]
    single_segment, kind = flags >> 5 & 1, flags >> 6
    nbytes = (single_segment, 2, 4, 8)[kind]
    if not nbytes:
        return _zstd_size_by_decoding(encoded, most)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(header[start : start + nbytes], "little") + 256 * (kind == 1)


def _zstd_size_by_decoding(encoded: Encoded, most: int) -> int:
    try:
        return len(imagecodecs.zstd_decode(encoded.read(), out=most + 1))
    except imagecodecs.ZstdError as error:
        return most + 1 if "too small" in str(error) else 0


def _lz4_size(encoded: Encoded, most: int) -> int | None:
    header = encoded.read(4)
    return int.from_bytes(header, "little") if len(header) == 4 else None


def _deflate_size(encoded: Encoded, most: int) -> int:
    if encoded.length * _DEFLATE_RATIO <= _HARMLESS:
        return 0
    return _size_by_decoding(encoded, most, lambda: zlib.decompressobj(wbits=47))  # zlib or gzip


def _bz2_size(encoded: Encoded, most: int) -> int:
    return _size_by_decoding(encoded, most, bz2.BZ2Decompressor)


def _lzma_size(encoded: Encoded, most: int) -> int:
    return _size_by_decoding(encoded, most, lzma.LZMADecompressor)


def _size_by_decoding(encoded: Encoded, most: int, make_decoder: Callable[[], Any]) -> int:
    data, size = encoded.read(), 0
    try:
        while data and size <= most:
            decoder = make_decoder()
            size += len(decoder.decompress(data, most + 1 - size))
            data = decoder.unused_data if decoder.eof else b""
    except (zlib.error, lzma.LZMAError, OSError, EOFError):  # the codec raises an error for it
        return 0
    return size


_DECODED_SIZE: dict[str, Callable[[Encoded, int], int | None]] = {
    "blosc": _blosc_size,
    "zstd": _zstd_size,
    "lz4": _lz4_size,
    "zlib": _deflate_size,
    "gzip": _deflate_size,
    "bz2": _bz2_size,
    "lzma": _lzma_size,
}
