"""Prepare MitoEM for training: from the slices of the download to chunked Zarr that crops are read from."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prompt_das.data.slice_listing import PREPARED_NAME, name_some, slice_number
from prompt_das.volumes.folder_volume import read_image_file
from prompt_das.volumes.image_files import decode_rgb_ids

import numpy as np
import tifffile
import zarr
from PIL import Image
from tqdm import tqdm

SLICES = range(1000)
SPLITS = {"train": range(400), "val": range(400, 500)}
CHUNK = 512  # a crop of 384 x 384 touches at most four


@dataclass
class Plan:
    """What is in a folder: files by slice number, and what the arrays must hold."""

    folder: Path
    images: dict[int, Path]
    labels: dict[int, Path] = field(default_factory=dict)
    splits: dict[str, list[int]] = field(default_factory=dict)  # indices into the Zarr array
    height: int = 0
    width: int = 0
    label_dtype: str = "uint16"

    @property
    def attributes(self) -> dict[str, Any]:
        """Noted in the Zarr group, to tell whether it was made from the same files."""
        names = [path.name for path in self.images.values()]
        return {"slice_names": names, "splits": self.splits, "size": [self.height, self.width]}


def inspect(folder: Path, *, allow_partial: bool = False) -> Plan:
    """Check the files of a MitoEM folder; nothing but headers is read.

    With `allow_partial`, any slices that have images, and any labels among them, will do. Raises FileNotFoundError
    that names missing files, and ValueError that names files of the wrong size or type.
    """
    plan = Plan(folder, _numbered(folder / "im", "im*.png"))
    _complain_if_missing(folder / "im", "im{:04d}.png", SLICES, plan.images, allow_partial)
    foreign = [path.name for number, path in plan.images.items() if number not in SLICES]
    if foreign:
        raise ValueError(
            f"{folder / 'im'} holds {name_some(foreign)}, but MitoEM has slices {SLICES[0]} to {SLICES[-1]}: "
            "the padded variant (EM30-H-im-pad.zip) does not fit the labels, take EM30-H-im.zip"
        )
    index = {number: z for z, number in enumerate(plan.images)}
    for split, numbers in SPLITS.items():
        label_folder = folder / f"mito-{split}-v2"
        files = _numbered(label_folder, "seg*.tif")
        _complain_if_missing(label_folder, "seg{:04d}.tif", numbers, files, allow_partial)
        alone = [path.name for number, path in files.items() if number not in index]
        if alone:
            raise FileNotFoundError(f"{folder / 'im'} has no image for {label_folder.name}/{name_some(alone)}")
        if files:
            plan.splits[split] = [index[number] for number in files]
        plan.labels.update(files)
    _check_headers(plan)
    return plan


def prepare(folder: Path, *, allow_partial: bool = False, overwrite: bool = False, workers: int = 4) -> Path:
    """Write `mitoem.zarr` into a MitoEM folder, or finish it, and return its path.

    Raises FileNotFoundError and ValueError as `inspect` does, and FileExistsError if there is a `mitoem.zarr` that
    was made from other files.
    """
    plan = inspect(folder, allow_partial=allow_partial)
    target, progress = folder / PREPARED_NAME, folder / f"{PREPARED_NAME}.progress"
    if overwrite:
        shutil.rmtree(target, ignore_errors=True)
        progress.unlink(missing_ok=True)
    group = zarr.open_group(str(target), mode="a") if target.exists() and not _abandoned(target, progress) else None
    if group is not None and any(group.attrs.get(key) != value for key, value in plan.attributes.items()):
        raise FileExistsError(f"{target} was made from other files than those in {folder} now; --overwrite replaces it")
    if group is not None and group.attrs.get("complete"):
        return target
    if group is None:
        group = _create(target, progress, plan)

    # A line is written after the whole slice: what was cut off by a stop has no line and is written again.
    lines = progress.read_text().splitlines(keepends=True) if progress.exists() else []
    done = {line for line in lines if line.endswith("\n")}
    todo = [(z, number) for z, number in enumerate(plan.images) if f"{number}\n" not in done]
    bar = tqdm(total=len(plan.images), initial=len(plan.images) - len(todo), desc=folder.name, unit="slice")
    executor = ThreadPoolExecutor(workers)  # decoding and compressing release the GIL
    try:
        with progress.open("a") as file:
            for future in as_completed(executor.submit(_write_slice, group, plan, z, n) for z, n in todo):
                file.write(f"{future.result()}\n")
                file.flush()
                os.fsync(file.fileno())
                bar.update()
    finally:
        executor.shutdown(cancel_futures=True)
        bar.close()
    group.attrs["complete"] = True
    progress.unlink()
    return target


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    files = {slice_number(path.name): path for path in folder.glob(pattern)}
    return dict(sorted(files.items()))


def _complain_if_missing(
    folder: Path, name: str, expected: Iterable[int], found: dict[int, Path], allow_partial: bool
) -> None:
    if not folder.is_dir() and not allow_partial:
        raise FileNotFoundError(f"{folder} does not exist. datasets/README.md says what to download")
    missing = [name.format(number) for number in expected if number not in found]
    if missing and not allow_partial:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(missing) + len(found)} slices: {name_some(missing)}. "
            "Download them again, or use --allow-partial for a part of MitoEM"
        )
    if not found and name.startswith("im"):
        raise FileNotFoundError(f"{folder} has no slices named {name.format(0)}")


def _check_headers(plan: Plan) -> None:
    first = next(iter(plan.images.values()))
    with Image.open(first) as image:
        plan.width, plan.height = image.size
    widest = 2
    for number, path in plan.images.items():
        with Image.open(path) as image:
            if image.mode != "L":
                raise ValueError(f"{path} has mode {image.mode}; MitoEM's images are 8-bit gray")
            _complain_if_size_differs(path, image.size[::-1], plan, first)
        if number in plan.labels:
            with tifffile.TiffFile(plan.labels[number]) as tif:
                page, dtype = tif.pages.first, np.dtype(tif.pages.first.dtype)
                color = page.ndim == 3 and page.shape[-1] in (3, 4) and dtype == np.uint8
                if not color and (page.ndim != 2 or dtype.kind != "u"):
                    raise ValueError(
                        f"{plan.labels[number]} is {dtype} {page.shape}; labels must be unsigned integer ids "
                        "(height, width), or RGB-coded uint8 (height, width, 3)"
                    )
                _complain_if_size_differs(plan.labels[number], page.shape[:2], plan, first)
                widest = max(widest, 4 if color else dtype.itemsize)
    if widest > 2:  # only then are the ids themselves looked at
        highest = max(int(_read_ids(path).max()) for path in tqdm(plan.labels.values(), desc="Reading ids"))
        plan.label_dtype = np.min_scalar_type(max(highest, 256)).name


def _complain_if_size_differs(path: Path, size: tuple[int, ...], plan: Plan, first: Path) -> None:
    if tuple(size) != (plan.height, plan.width):
        raise ValueError(f"{path} is {size[0]} x {size[1]}, but {first.name} is {plan.height} x {plan.width}")


def _read_ids(path: Path) -> np.ndarray:
    array = read_image_file(path).array
    return decode_rgb_ids(array) if array.ndim == 3 else array


def _abandoned(target: Path, progress: Path) -> bool:
    """Whether a stop came before the arrays were there; such a target may be made anew."""
    return progress.exists() and "slice_names" not in zarr.open_group(str(target), mode="a").attrs


def _create(target: Path, progress: Path, plan: Plan) -> Any:
    progress.write_text("")
    group = zarr.open_group(str(target), mode="w")
    shape = (len(plan.images), plan.height, plan.width)
    chunks = (1, min(CHUNK, plan.height), min(CHUNK, plan.width))
    # One file per slice: a shard of chunks.
    shards = (1, *(-(-size // chunk) * chunk for size, chunk in zip(shape[1:], chunks[1:], strict=True)))
    for name, dtype in (("images", "uint8"), ("labels", plan.label_dtype)):
        array = group.create_array(name, shape=shape, chunks=chunks, shards=shards, dtype=dtype, fill_value=0)
        array.attrs["slice_names"] = plan.attributes["slice_names"]
    group.attrs.update(plan.attributes)
    return group


def _write_slice(group: Any, plan: Plan, z: int, number: int) -> int:
    group["images"][z] = read_image_file(plan.images[number]).array
    if number in plan.labels:
        group["labels"][z] = _read_ids(plan.labels[number])
    return number


def run(args: argparse.Namespace) -> None:
    for folder in args.folders:
        target = prepare(folder, allow_partial=args.allow_partial, overwrite=args.overwrite, workers=args.workers)
        print(f"{target} is complete")
