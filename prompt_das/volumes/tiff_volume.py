"""A multi-page or tiled TIFF as a volume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prompt_das.volumes import tiff, voxel_size
from prompt_das.volumes.array_volume import three_dimensions
from prompt_das.volumes.volume import Box, Volume, VolumeError

import numpy as np
from tifffile import TiffFile

logger = logging.getLogger(__name__)


class TiffVolume(Volume):
    """A multi-page TIFF: of uncompressed ones only the rows needed are read, of others the tiles or strips."""

    def __init__(self, path: Path):
        super().__init__(path)
        with TiffFile(path) as tif:
            series = tiff.first_series(tif)
            if len(tif.series) > 1 and series is tif.series[0]:
                logger.warning("%s: what follows the first %d pages is not read", path, len(series))
            shape = series.shape[:-1] if series.axes.endswith("S") else series.shape
            if not series.axes.endswith(("YX", "YXS")):
                raise VolumeError(f"{path}: expected slices of height x width, found {series.axes} {series.shape}")
            self.min_is_white = tiff.is_min_is_white(series)
            self.shape, self.dtype = three_dimensions(shape, path), np.dtype(series.dtype)

    def _stored_voxel_size(self) -> voxel_size.VoxelSize | None:
        with TiffFile(self.path) as tif:
            return voxel_size.of_tiff(tif)

    def _open(self) -> Any:
        tif = TiffFile(self.path)
        series = tiff.first_series(tif)
        return tif, series, list(series.pages) if series.dataoffset is None else None

    def _read(self, z: int, box: Box) -> np.ndarray:
        tif, series, pages = self._handle()
        if pages is None:
            return tiff.read_run(tif, series, z, box)
        if len(pages) == len(self):
            return tiff.read_segments(tiff.written(pages[z]), 0, box)
        return tiff.read_segments(tiff.written(pages[0]), z, box)  # all slices are planes of one page
