"""Make two synthetic domains on disk, in MitoEM's layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from prompt_das.volumes.synthetic import STYLES, make_synthetic_volume

import cv2
import tifffile
from tqdm import tqdm


def write_domain(folder: Path, style: str, *, size: int = 256, slices: int = 24, seed: int = 0) -> None:
    """One domain as a folder of `slices` slices of `size` x `size` pixels."""
    images, labels = make_synthetic_volume((slices, size, size), style, seed)
    splits = ["train"] * (slices - slices // 3) + ["val"] * (slices // 3)
    for name in ("im", "mito-train-v2", "mito-val-v2"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.*"):  # of an earlier call with more slices
            if old.name.startswith(("im", "seg")):
                old.unlink()
    for z, split in enumerate(splits):
        cv2.imwrite(str(folder / "im" / f"im{z:04d}.png"), images[z])
        tifffile.imwrite(folder / f"mito-{split}-v2" / f"seg{z:04d}.tif", labels[z], compression="zlib")


def run(args: argparse.Namespace) -> None:
    if args.size < 64 or args.slices < 3:
        raise ValueError(f"--size must be at least 64 and --slices at least 3, not {args.size} and {args.slices}")
    for style in tqdm(STYLES, desc="Synthetic domains"):
        folder = args.output / "synthetic" / style
        write_domain(folder, style, size=args.size, slices=args.slices, seed=args.seed)
    print(f"{args.output / 'synthetic'}: {', '.join(STYLES)}, {args.slices} slices of {args.size} x {args.size} each")
