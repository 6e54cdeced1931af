"""The chunks of a Zarr array, checked before Zarr decodes them, wherever they are stored.

A chunk may inflate to any size, whatever the metadata declare, and its file may be of any size. A FIFO in place of a
file is waited for without end. Blosc, which most OME-Zarr files use, gives any values for what is missing at a chunk's
end, and no error; other codecs raise an error. A chunk that is not there at all was never written: its values are the
fill value, by Zarr's rules.

What is checked are the very bytes that Zarr gets: the stores here and in :mod:`prompt_das.volumes.remote_files` check
each chunk that they read. Errors are ValueError, with what is wrong: volume.py turns them into VolumeError and adds the
path.
"""

from __future__ import annotations

import bz2
import lzma
import math
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

_SLACK = 1024  # bytes by which a decoded chunk may exceed its values: checksums, padding
_ENCODED = 1 << 20  # bytes by which an encoded chunk may exceed twice its values: headers
_CHECKSUM = 4  # bytes of CRC-32
_DEFLATE_RATIO = 1032  # the most that Deflate inflates
_HARMLESS = 1 << 30  # bytes; what cannot inflate to more is not decoded as a check
_NEVER_WRITTEN = 2**64 - 1  # offset of an inner chunk that a shard does not hold
_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class ChunkChecks:
    """What the chunks of an array may be as they are stored.

    Raises ValueError for codecs that would run code, or that could inflate a chunk several times over.
    """

    def __init__(self, array: zarr.Array) -> None:
        names = [_name(codec) for codec in (*array.filters, *array.compressors)]
        if "pickle" in names:
            raise ValueError("it is stored with Pickle, which can run any code when it is read")
        self._checksums = 0  # behind each chunk
        while names and names[-1] == "crc32c":
            self._checksums += _CHECKSUM
            names.pop()
        inflating = [name for name in names if name in _DECODED_SIZE]
        if len(inflating) > 1 or "sharding" in names or (inflating and names[-1] not in inflating):
            raise ValueError(f"its chunks are encoded several times over ({', '.join(names)})")
        self._decoded_size = _DECODED_SIZE[inflating[0]] if inflating else None
        self._prefix = f"{array.path}/" if array.path else ""
        self._most = math.prod(array.chunks) * array.dtype.itemsize + _SLACK
        self._shard = None if array.shards is None else _ShardIndex(array)

    def is_chunk(self, key: str) -> bool:
        """Whether a file of the store is a chunk, or a shard of several, of the array."""
        return key.startswith(self._prefix) and key.rpartition("/")[2] not in _DOCUMENTS

    def most_stored(self, name: str, byte_range: Any = None) -> int:
        """The bytes that a chunk, or a part of a shard, may have as it is stored. ``name``: of its file, for messages.

        Raises ValueError for a part that is larger than any chunk.
        """
        most = 2 * self._most + _ENCODED
        if self._shard is None:
            return most
        if byte_range is None:
            return self._shard.count * 2 * self._most + _ENCODED + self._shard.nbytes
        if self._shard.is_index(byte_range):
            return self._shard.nbytes
        if byte_range.end - byte_range.start > most:
            raise ValueError(
                f"its shard {name} is damaged or incomplete: it claims a chunk of more than {most:,} bytes"
            )
        return most

    def require_sound(self, name: str, stored: Any, byte_range: Any = None) -> None:
        """Raises ValueError for a chunk that is cut off, or inflates to more than a chunk of the array holds.

        Args:
            name: of its file.
            stored: Zarr's buffer with its bytes, None for one that is not there.
            byte_range: what Zarr asked for: None for all, else a part of a shard.
        """
        data = None if stored is None else memoryview(stored.as_numpy_array())
        if self._shard is None:
            if data is not None:
                self._require_sound_chunk(name, data)
        elif byte_range is None:
            if data is not None:
                for start, length in self._shard.chunks(name, self._shard.cut(data)):
                    self._require_whole(name, data[start : start + length], length)
                    self._require_sound_chunk(name, data[start : start + length])
        elif self._shard.is_index(byte_range):
            if data is not None:
                self._shard.chunks(name, data)
        else:  # its index says that it is there
            length = byte_range.end - byte_range.start
            data = memoryview(b"") if data is None else data
            self._require_whole(name, data, length)
            self._require_sound_chunk(name, data)

    def _require_whole(self, name: str, data: memoryview, length: int) -> None:
        if len(data) != length:
            raise ValueError(f"its shard {name} is damaged or incomplete")

    def _require_sound_chunk(self, name: str, data: memoryview) -> None:
        if self._decoded_size is None:
            return
        size = self._decoded_size(data[: max(0, len(data) - self._checksums)], self._most)
        if size is None:
            raise ValueError(f"its chunk {name} is damaged or incomplete")
        if size > self._most:
            raise ValueError(f"its chunk {name} inflates to more than the {self._most - _SLACK:,} bytes of a chunk")


class _ShardIndex:
    """Where the chunks of a shard are: at one of its ends, an index holds their offsets and lengths.

    Raises ValueError for an index that is encoded in an unusual way.
    """

    def __init__(self, array: zarr.Array) -> None:
        codec: Any = getattr(array.metadata, "codecs", (None,))[0]
        usual = isinstance(codec, ShardingCodec)
        if not usual or [type(one) for one in codec.index_codecs] != [BytesCodec, Crc32cCodec]:
            raise ValueError("the index of its shards is encoded in another way than this package reads")
        shape, inner = array.shards or array.chunks, array.chunks
        self.count = math.prod(outer // side for outer, side in zip(shape, inner, strict=True))
        self.nbytes = 16 * self.count + _CHECKSUM
        self._at_end = codec.index_location.value == "end"
        endian = codec.index_codecs[0].endian
        self._dtype = ">u8" if endian is not None and endian.value == "big" else "<u8"

    def is_index(self, byte_range: Any) -> bool:
        """Whether Zarr asks for the index."""
        if self._at_end:
            return isinstance(byte_range, SuffixByteRequest)
        return byte_range == RangeByteRequest(0, self.nbytes)

    def cut(self, shard: memoryview) -> memoryview:
        """The index of a whole shard."""
        return shard[-self.nbytes :] if self._at_end else shard[: self.nbytes]

    def chunks(self, name: str, index: memoryview) -> list[tuple[int, int]]:
        """Start and length in bytes of each chunk that the shard holds.

        Raises ValueError for an index that is cut off, or has a chunk where the index itself is.
        """
        if len(index) != self.nbytes:
            raise ValueError(f"its shard {name} is damaged or incomplete")
        entries = np.frombuffer(index[:-_CHECKSUM], self._dtype).reshape(-1, 2).tolist()
        chunks = [(start, length) for start, length in entries if start != _NEVER_WRITTEN]
        if not self._at_end and any(start < self.nbytes for start, _ in chunks):
            raise ValueError(f"its shard {name} is damaged: its index and a chunk overlap")
        return chunks


class RegularFiles(LocalStore):
    """A folder in which a FIFO or a device is an error: opening one would wait without end.

    ``checks``: of the chunks of an array, once it is known.
    """

    checks: ChunkChecks | None = None

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        file = Path(self.root) / key
        size = _size_of(file)
        if self.checks is None or not self.checks.is_chunk(key):
            return await super().get(key, prototype, byte_range)
        most = self.checks.most_stored(str(file), byte_range)
        if byte_range is None and size is not None and size > most:
            raise ValueError(f"its chunk {file} has {size:,} bytes, more than the {most:,} that it can need")
        buffer = await super().get(key, prototype, byte_range)
        self.checks.require_sound(str(file), buffer, byte_range)
        return buffer


def _size_of(file: Path) -> int | None:
    """Bytes of a file, None if there is none. Raises ValueError for what is neither a file nor a folder."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{file} is not a regular file")
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _name(codec: Any) -> str:
    """Name of a codec of either of Zarr's formats, "zstd" for example."""
    name = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
    return str(name).removeprefix("numcodecs.").removesuffix("Codec").lower()


# Each takes an encoded chunk and the most that it may inflate to, and gives its size when it is decoded: exact, or
# anything above the most, or 0 where it cannot be more. None: it is damaged in a way that its codec does not detect.


def _blosc_size(encoded: memoryview, most: int) -> int | None:
    if len(encoded) < 16:
        return None
    decoded, stored = struct.unpack("<4xI4xI", encoded[:16])
    return decoded if stored == len(encoded) else None


def _zstd_size(encoded: memoryview, most: int) -> int:
    header = encoded[:18]
    if len(header) < 18 or header[:4] != b"\x28\xb5\x2f\xfd":  # of many frames, or damaged
        return _zstd_size_by_decoding(encoded, most)
    flags = header[4]
    single_segment, kind = flags >> 5 & 1, flags >> 6
    nbytes = (single_segment, 2, 4, 8)[kind]
    if not nbytes:
        return _zstd_size_by_decoding(encoded, most)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(header[start : start + nbytes], "little") + 256 * (kind == 1)


def _zstd_size_by_decoding(encoded: memoryview, most: int) -> int:
    try:
        return len(imagecodecs.zstd_decode(bytes(encoded), out=most + 1))
    except imagecodecs.ZstdError as error:
        return most + 1 if "too small" in str(error) else 0


def _lz4_size(encoded: memoryview, most: int) -> int | None:
    header = encoded[:4]
    return int.from_bytes(header, "little") if len(header) == 4 else None


def _deflate_size(encoded: memoryview, most: int) -> int:
    if len(encoded) * _DEFLATE_RATIO <= _HARMLESS:
        return 0
    return _size_by_decoding(encoded, most, lambda: zlib.decompressobj(wbits=47))  # zlib or gzip


def _bz2_size(encoded: memoryview, most: int) -> int:
    return _size_by_decoding(encoded, most, bz2.BZ2Decompressor)


def _lzma_size(encoded: memoryview, most: int) -> int:
    return _size_by_decoding(encoded, most, lzma.LZMADecompressor)


def _size_by_decoding(encoded: memoryview, most: int, make_decoder: Callable[[], Any]) -> int:
    data, size = bytes(encoded), 0
    try:
        while data and size <= most:
            decoder = make_decoder()
            size += len(decoder.decompress(data, most + 1 - size))
            data = decoder.unused_data if decoder.eof else b""
    except (zlib.error, lzma.LZMAError, OSError, EOFError):  # the codec raises an error for it
        return 0
    return size


_DECODED_SIZE: dict[str, Callable[[memoryview, int], int | None]] = {
    "blosc": _blosc_size,
    "zstd": _zstd_size,
    "lz4": _lz4_size,
    "zlib": _deflate_size,
    "gzip": _deflate_size,
    "bz2": _bz2_size,
    "lzma": _lzma_size,
}
