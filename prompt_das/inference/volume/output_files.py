"""The files that a prediction writes, checked before anything is predicted."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_das.inference.volume.table import is_parquet
from prompt_das.utils.output_paths import overlap, require_apart, require_nameable
from prompt_das.volumes.ome_zarr import OME_VERSIONS
from prompt_das.volumes.open_volume import HDF5_SUFFIXES, TIFF_SUFFIXES

FORMATS = {".zarr": "zarr", **dict.fromkeys(HDF5_SUFFIXES, "hdf5"), **dict.fromkeys(TIFF_SUFFIXES, "tiff")}
DEFAULT_OME_VERSION = "0.4"
_LIKE_ADDRESS = re.compile(r"(https?|s3|gs):/")  # as a path has one slash only
LONGEST_ADDITION = len(".part")  # to the name of the output, for the folder that the job works in


@dataclass(frozen=True)
class OutputFiles:
    """Where the results go.

    Attributes:
        output: ``*.zarr`` (all maps and the labels), ``*.h5`` (the same) or ``*.tif`` (the labels).
        beside: for TIFF, the files of the maps: ``*_probability.tif`` and ``*_density.tif``.
        table: CSV or Parquet file with one row for each instance.
        ome_version: of an OME-Zarr.
    """

    output: Path
    beside: dict[str, Path]
    table: Path | None
    ome_version: str

    @classmethod
    def plan(
        cls, output: str | Path, maps: Sequence[str], table: str | Path | None, ome_version: str = DEFAULT_OME_VERSION
    ) -> OutputFiles:
        """List the files for an output and a table.

        Raises:
            ValueError: the format is unknown, is not of this version, or needs a package that is not installed.
        """
        for path in (output, table):
            if address := _LIKE_ADDRESS.match(str(path)):
                raise ValueError(f"results are written to a disk, not to {address[1]}://; copy them there afterwards")
        output, table = Path(output), None if table is None else Path(table)
        if output.suffix.lower() not in FORMATS:
            raise ValueError(f"{output}: '{output.suffix}' is not a format that is written; use {', '.join(FORMATS)}")
        if ome_version not in OME_VERSIONS:
            raise ValueError(f"OME-Zarr of version {ome_version!r} is not written; use {' or '.join(OME_VERSIONS)}")
        if ome_version != DEFAULT_OME_VERSION and FORMATS[output.suffix.lower()] != "zarr":
            raise ValueError(f"{output} is no OME-Zarr {ome_version}: name it *.zarr, or leave the version out")
        if table is not None and is_parquet(table) and importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"{table} needs pyarrow: pip install 'prompt_das[parquet]'. Or name it *.csv")
        beside = {}
        if FORMATS[output.suffix.lower()] == "tiff":
            beside = {name: output.with_name(f"{output.stem}_{name}{output.suffix}") for name in maps}
        return cls(output, beside, table, ome_version)

    @property
    def format(self) -> str:
        """ "zarr", "hdf5" or "tiff"."""
        return FORMATS[self.output.suffix.lower()]

    @property
    def paths(self) -> list[Path]:
        """All files and folders that are written."""
        return [self.output, *self.beside.values(), *([] if self.table is None else [self.table])]

    def check(self, inputs: Iterable[Path]) -> None:
        """Compare what is written with what is read, and with what the file system allows.

        Raises:
            ValueError: a file would replace one of the inputs, or another result; or lie in the folder of an input.
            OSError: a name that is too long, a link that leads nowhere, a folder that cannot be written to.
        """
        for path in self.paths:
            require_nameable(path, LONGEST_ADDITION)
        for i, path in enumerate(self.paths):
            if any(overlap(path, other) for other in self.paths[:i]):
                raise ValueError(f"{path} is written twice: give output and table names of their own")
        require_apart([*self.paths, self.output.with_name(f"{self.output.name}.part")], inputs)
