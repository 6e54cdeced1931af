"""Files of an adaptation: the result, the folder of its run beside it, and what it reads, compared before it begins."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.model_zoo import sha256_of
from prompt_das.engine import run_folder
from prompt_das.inference.volume.source import fingerprint
from prompt_das.inference.volume.workspace import describe_differences
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.utils.output_paths import claim_folder, require_apart, require_nameable, require_replaceable

SUFFIXES = (".safetensors", ".pth")
INPUTS = "inputs.json"  # what the adaptation was begun with
LONGEST_ADDITION = len(".4194304.part")  # to the name of the output, while it is written
# Settings that an argument decides: as an override, one would take the run to another place or volume.
DECIDED = {
    "OUTPUT_DIR": "--output",
    "MODEL.WEIGHTS": "--weights",
    "DATASETS.TRAIN": "--source",
    "DATASETS.TARGET": "--input",
    "DATASETS.SPARSE_POINTS.FILE": "--points",
    "SEED": "--seed",
}


def check_arguments(
    output: Path, minutes: float, seed: int, opts: Sequence[str], *, resume: bool, overwrite: bool
) -> Path:
    """Check all that needs no file but the output -> the folder of the run.

    Raises:
        FileExistsError: there is a result already, or an adaptation that was stopped.
        OSError: the output has a name that cannot be written.
        ValueError: an argument that makes no sense, or an override of what an argument decides.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(f"{output}: adapted weights are written as {' or '.join(SUFFIXES)}")
    if not (math.isfinite(minutes) and minutes > 0):
        raise ValueError(f"--minutes is {minutes:g}; give the minutes that the adaptation may take")
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed is {seed}; use 0 to 2^32 - 1")
    for key in opts[::2]:
        if key in DECIDED:
            raise ValueError(f"{key} follows from {DECIDED[key]}: leave it out")
    folder = output.with_name(f"{output.name}.adapting")
    unfinished = (folder / run_folder.CONFIG).is_file()
    if unfinished and not (resume or overwrite):
        raise FileExistsError(
            f"{folder} holds an adaptation that was stopped: go on with --resume, or begin anew with --overwrite"
        )
    require_replaceable(output, overwrite=overwrite or (resume and unfinished))
    return folder


def open_folder(output: Path, folder: Path, read: Iterable[Path], *, resume: bool) -> bool:
    """Make and lock the folder of the run -> whether there is an adaptation to resume; other runs in it are removed.

    Args:
        read: files and folders that nothing may be written over.

    Raises:
        FileExistsError: there is a folder of another program.
        OSError: the output has a name that cannot be written.
        ValueError: it would be written over what is read; another process is at work in the folder.
    """
    require_nameable(output, LONGEST_ADDITION)
    require_apart([output, folder], read)
    claim_folder(folder, ignore=[run_folder.LOCK])
    run_folder.lock(folder)
    unfinished = resume and (folder / run_folder.CONFIG).is_file()
    if not unfinished:
        for path in (*run_folder.run_files(folder), folder / run_folder.CONFIG):
            path.unlink(missing_ok=True)
    return unfinished


def require_same_inputs(folder: Path, weights: Path, slices: Sequence[dict[str, Any]], *, resume: bool) -> None:
    """Write down which weights and images the adaptation begins with, or with ``resume`` compare them with it.

    Raises:
        ValueError: they have changed since; names what.
    """
    inputs = {"weights": sha256_of(weights), **fingerprint(slices)}
    if not resume:
        with atomic_write(folder / INPUTS) as part:
            part.write_text(json.dumps(inputs))
        return
    try:
        before = json.loads((folder / INPUTS).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} cannot be resumed ({error}); begin anew with --overwrite") from error
    if changes := describe_differences(before, inputs):
        raise ValueError(
            f"the adaptation in {folder} was begun with other weights or images ({', '.join(changes)}): resume it with "
            "the same ones, or begin anew with --overwrite"
        )
