"""Adapt the network to a layer and its clicks: `prompt-das adapt` in a process of its own, so that clicking goes on.

``report`` is called with (seconds, seconds in all) again and again, and ends the work by raising.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from prompt_das.checkpoint.checkpointer import NUMBERED
from prompt_das.napari.files import Report, copy_volume, holds
from prompt_das.napari.layers import LayerVolume
from prompt_das.volumes.point_files import write_points
from prompt_das.volumes.voxel_size import VoxelSize

import numpy as np

MINUTES = 10
POLL_SECONDS = 0.5
STOP_SECONDS = 30  # a training that is stopped ends after its iteration


def adapt_to_clicks(
    weights: Path,
    volume: LayerVolume,
    file: str | None,
    output: Path,
    clicks: Mapping[int, np.ndarray],
    voxel_size: VoxelSize | None,
    diameter: float | None,
    report: Report,
    minutes: float = MINUTES,
    on_checkpoint: Callable[[Path], object] = lambda weights: None,
) -> str:
    """Write adapted weights to ``output``, replacing what is there -> what came of it, for the user.

    Args:
        file: where the layer comes from, if anywhere. A layer that is not what the file holds is copied to a Zarr
            beside ``output`` for as long as this takes.
        clicks: (N, 3) of slices: x, y, label.
        diameter: of a typical object in pixels, if that decides the scale.
        on_checkpoint: called with weights of the network as it is, about ten times. They are deleted later.

    Raises:
        ValueError: the adaptation was refused or failed; with its own words.
    """
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        points = Path(folder) / "clicks.json"
        write_points(points, clicks)
        images: Path | str
        if file is not None and holds(file, volume):
            images = file
        else:
            images = copy_volume(volume, Path(folder) / "layer", voxel_size, report)
        words = ["adapt", "--weights", weights, "--input", images, "--points", points, "--output", output]
        words += ["--minutes", minutes, "--overwrite"]
        words += ["--diameter", diameter] if diameter is not None else []
        words += ["--voxel-size", *voxel_size] if diameter is None and voxel_size is not None else []
        if volume.intensity_range is not None:
            words += ["--intensity-range", *volume.intensity_range]
        run = output.with_name(f"{output.name}.adapting")
        watch = CheckpointWatch(run, on_checkpoint)

        def report_and_watch(done: int, total: int) -> None:
            report(done, total)
            watch()

        try:
            return run_command([str(word) for word in words], 60 * minutes, report_and_watch)
        except BaseException:  # cancelled: what was begun is not continued from here
            shutil.rmtree(run, ignore_errors=True)
            raise


class CheckpointWatch:
    """Tells of each new numbered checkpoint in the folder of a run, once."""

    def __init__(self, folder: Path, on_checkpoint: Callable[[Path], object]) -> None:
        self._folder, self._on_checkpoint = folder, on_checkpoint
        self._newest = self._last()  # of a run before

    def __call__(self) -> None:
        newest = self._last()
        if newest is not None and newest != self._newest:
            self._newest = newest
            self._on_checkpoint(newest)

    def _last(self) -> Path | None:
        return max((file for file in self._folder.glob("*.pth") if NUMBERED.fullmatch(file.name)), default=None)


def run_command(words: Sequence[str], seconds: float, report: Callable[[int, int], None]) -> str:
    """Run ``prompt-das`` with these words -> the last line that it prints. ``seconds``: about how long it takes.

    Raises:
        ValueError: it failed; with the last line of its messages.
    """
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "prompt_das_cli", *words], stdout=printed, stderr=messages, stdin=subprocess.DEVNULL
        )
        try:
            while process.poll() is None:
                report(min(int(time.monotonic() - begun), int(seconds)), int(seconds) + 1)
                time.sleep(POLL_SECONDS)
        except BaseException:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        if process.returncode:
            raise ValueError(last_line(messages) or f"the adaptation ended with code {process.returncode}")
        return last_line(printed)


def last_line(file: IO[str]) -> str:
    """The last line of a file that is not empty; "" if all are."""
    file.seek(0)
    lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else ""
