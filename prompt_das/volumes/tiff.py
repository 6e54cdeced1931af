"""Checked reading of TIFFs: for a damaged one tifffile logs a line and goes on, where this package raises an error.

A file that was cut off would give zeros for what is missing, or a volume of fewer slices. So the list of pages must
end as it should, as many pages must be there as the description says, and every strip or tile must lie in the file.

Errors are ValueError, with what is wrong but not where, or whatever tifffile and its decoders raise: volume.py turns
them into VolumeError and adds the path.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any

from prompt_das.volumes.memory_limit import require_memory

import numpy as np
from tifffile import PHOTOMETRIC, TiffFile, TiffPageSeries

Box = tuple[int, int, int, int]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def first_series(tif: TiffFile) -> TiffPageSeries:
    """The pages that make up the volume, all of one size and type. Raises ValueError if some of them are missing."""
    _require_last_page(tif)
    try:
        series = _joined(tif.series)
    except RuntimeError as error:  # "incompatible keyframe"
        raise ValueError("its pages differ in size or type") from error
    if not _is_as_described(tif):
        raise ValueError(f"the pages that its description promises are not there: {tif.pages.first.description:.200}")
    key = series.keyframe
    if math.prod(series.shape) != len(series) * math.prod(key.shape):
        raise ValueError(f"{len(series)} pages of {key.shape} are not a volume of {series.shape}")
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > tif.filehandle.size:
            raise _ends_early(tif)
    elif not key.is_contiguous:
        _segment(key, math.prod(key.chunked) - 1)
        require_memory(math.prod(key.chunks) * series.dtype.itemsize)  # a whole strip or tile is decoded
    if series.kind == "generic":  # pages of one size and type, wherever in the file they are
        numbers = [page.index for page in series.pages if page is not None]
        if numbers[-1] - numbers[0] >= len(numbers):
            odd = min(set(range(numbers[0], numbers[-1])) - set(numbers))
            raise ValueError(f"page {odd} is of another size or type than page {numbers[0]}")
    return series


def is_min_is_white(series: TiffPageSeries) -> bool:
    """Whether the smallest value of the pages is shown white."""
    return series.keyframe.photometric == PHOTOMETRIC.MINISWHITE


def decode_all(series: TiffPageSeries) -> np.ndarray:
    """All pages of a series at once. tifffile does it in threads, and takes zeros for what is not in the file."""
    for page in map(written, series.pages):
        for index in range(math.prod(page.keyframe.chunked)):
            offset, count = _segment(page, index)
            if offset + count > page.parent.filehandle.size:
                raise _ends_early(page.parent)
    return series.asarray()


def read_run(tif: TiffFile, series: TiffPageSeries, z: int, box: Box) -> np.ndarray:
    """A box of a series that is stored as one run of bytes, slice after slice: (h, w) or (h, w, channels).

    Read, not mapped into memory: a mapped file that shrinks, or whose disk fails, would end the process.
    """
    y0, x0, y1, x1 = box
    height, width, *color = series.shape[series.axes.index("Y") :]
    rows = np.empty((y1 - y0, width, *color), np.dtype(series.dtype).newbyteorder(tif.byteorder))
    start = (series.dataoffset or 0) + (z * height + y0) * rows[0].nbytes
    _read_into(rows.reshape(-1).view(np.uint8), tif, start)
    return np.ascontiguousarray(rows[:, x0:x1], dtype=series.dtype)


def read_segments(page: Any, plane: int, box: Box) -> np.ndarray:
    """A box of a page in strips or tiles, decoding those that it touches: (h, w) or (h, w, channels).

    `plane` counts within a page that holds several, one behind the other.
    """
    y0, x0, y1, x1 = box
    key = page.keyframe
    tile_h, tile_w = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
    rows, columns = -(-key.imagelength // tile_h), -(-key.imagewidth // tile_w)
    color = (key.samplesperpixel,) if key.axes.endswith("S") else ()
    out = np.zeros((y1 - y0, x1 - x0, *color), key.dtype)
    for row in range(y0 // tile_h, (y1 - 1) // tile_h + 1):
        for column in range(x0 // tile_w, (x1 - 1) // tile_w + 1):
            index = (plane * rows + row) * columns + column
            offset, count = _segment(page, index)
            if not (offset and count):  # never written
                continue
            data = np.empty(count, np.uint8)
            _read_into(data, page.parent, offset)
            tile, (_, _, y, x, _), _ = key.decode(data.data, index, jpegtables=page.jpegtables)
            tile = tile[0] if color else tile[0, ..., 0]
            top, left = max(y, y0), max(x, x0)
            bottom, right = min(y + tile.shape[0], y1), min(x + tile.shape[1], x1)
            out[top - y0 : bottom - y0, left - x0 : right - x0] = tile[top - y : bottom - y, left - x : right - x]
    return out


def written(page: Any) -> Any:
    """A page of a series, which must be there: of an OME-TIFF in several files, some files may be missing."""
    if page is None:
        raise ValueError("it belongs to a page that is not in the file, nor in those that it names")
    if page.parent.filehandle.closed:  # another file of the same OME-TIFF
        page.parent.filehandle.open()
    return page


def _require_last_page(tif: TiffFile) -> None:
    """Each page points to the next and the last to none; tifffile stops silently where that leads out of the file."""
    file, layout = tif.filehandle, tif.tiff
    start = tif.pages[-1].offset
    file.seek(start)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(start + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    if following:
        raise ValueError(f"the list of its pages is damaged or incomplete after page {len(tif.pages) - 1}")


def _joined(every: list[TiffPageSeries]) -> TiffPageSeries:
    """The first series, or all as one where pages of one size and type were written one by one.

    Others may follow it, a preview or coarser scales, but not what looks like the rest of a volume.
    """
    first = every[0]
    same = [series for series in every if (series.shape, series.dtype) == (first.shape, first.dtype)]
    one_by_one = len(first) == 1 < len(same)
    if max(map(len, every)) > len(first) or (one_by_one and len(same) < len(every)):
        raise ValueError("its pages differ in size or type")
    if not one_by_one:
        return first
    pages, shape, axes = [series.keyframe for series in every], (len(every), *first.shape), "Q" + first.axes
    return TiffPageSeries(pages, shape, first.dtype, axes, kind=first.kind)


def _is_as_described(tif: TiffFile) -> bool:
    """Whether the pages are those of the description; tifffile goes by the pages alone if they are not."""
    series = tif.series[0]
    if series.kind in ("generic", "uniform"):
        return not (tif.is_shaped or tif.is_imagej or (tif.is_ome and "BinaryOnly" not in tif.pages.first.description))
    if series.kind == "shaped":
        described = (tif.shaped_metadata or ({},))[0]
        unfinished = series.is_truncated and not described.get("truncated")
        return not unfinished and math.prod(described.get("shape", ())) == math.prod(series.shape)
    return True


def _segment(page: Any, index: int) -> tuple[int, int]:
    if index >= min(len(page.dataoffsets), len(page.databytecounts)):
        raise ValueError(f"its list of strips or tiles ends before number {index}")
    return page.dataoffsets[index], page.databytecounts[index]


def _read_into(data: np.ndarray, tif: TiffFile, start: int) -> None:
    """Reads bytes from a place in the file. Threads may do so at the same time, unlike with seek and read."""
    view = data.data
    while len(view):
        count = os.preadv(tif.filehandle.fileno(), [view], start)  # no more than 2 GiB at once
        if not count:
            raise _ends_early(tif)
        view, start = view[count:], start + count


def _ends_early(tif: TiffFile) -> ValueError:
    return ValueError(f"{tif.filename} ends at byte {os.fstat(tif.filehandle.fileno()).st_size}, before its pixels do")
