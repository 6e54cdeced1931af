"""Two codecs of Zarr that need care: Pickle runs the code that a chunk holds, and Blosc decodes half a chunk.

Blosc, which most OME-Zarr files use, gives any values for what is missing at a chunk's end, and no error. Other codecs
notice by themselves, and so does Zarr for shards. A chunk that is not there at all was never written: its values are
the fill value, by Zarr's rules.

Errors are ValueError, with what is wrong: volumes.py makes one kind of them and adds the name.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<12xI")  # Blosc's: the last of its four words is the chunk's length


def require_safe(array: Any) -> None:
    """Raises ValueError for an array that would run code when it is read (Zarr 3 refuses such arrays itself)."""
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in (*(array.filters or ()), *_compressors(array))):
        raise ValueError("it is stored with Pickle, which can run any code when it is read")


def uses_blosc(array: Any) -> bool:
    """Whether each chunk of an array is a file that Blosc has written."""
    names = [type(codec).__name__ for codec in _compressors(array)]
    return bool(names) and names[-1].startswith("Blosc") and getattr(array, "shards", None) is None


def require_whole_chunks(folder: Path, array: Any, region: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError for a chunk of an array in `folder` that is not as long as Blosc says in its header.

    `region`: [start, stop) along each axis.
    """
    spans = [range(start // size, (stop - 1) // size + 1) for (start, stop), size in zip(region, array.chunks)]
    for chunk in itertools.product(*spans):
        if hasattr(array, "metadata"):
            file = folder / array.metadata.encode_chunk_key(chunk)
        else:  # Zarr 2
            file = folder / (array._dimension_separator or ".").join(map(str, chunk))
        try:
            with open(file, "rb", buffering=0) as stream:
                header, length = stream.read(_HEADER.size), os.fstat(stream.fileno()).st_size
        except FileNotFoundError:
            continue
        if len(header) < _HEADER.size or _HEADER.unpack(header)[0] != length:
            raise ValueError(f"its chunk {file} is damaged or incomplete")


def _compressors(array: Any) -> Sequence[Any]:
    if hasattr(array, "compressors"):
        return array.compressors
    return () if array.compressor is None else (array.compressor,)  # Zarr 2
