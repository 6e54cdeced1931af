#!/usr/bin/env python3
"""Make the two synthetic domains on disk, in MitoEM's layout.

    python tools/make_synthetic.py --output datasets

writes datasets/synthetic/{source,target} with im/im%04d.png, mito-train-v2/seg%04d.tif and mito-val-v2/seg%04d.tif:
with DETECTRON2_DATASETS=datasets these are the data sets synthetic_{source,target}_{train,val}. The last third of the
slices is for validation. The same arguments give the same files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from prompt_das.volumes.synthetic import STYLES, make_synthetic_volume

import cv2
import tifffile
from tqdm import tqdm


def write_domain(folder: Path, style: str, *, size: int, slices: int, seed: int) -> None:
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder that gets `synthetic/`")
    parser.add_argument("--size", type=int, default=256, help="height and width of a slice in pixels, at least 64")
    parser.add_argument("--slices", type=int, default=24, help="of each domain, at least 3")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.size < 64 or args.slices < 3:
        parser.error(f"--size must be at least 64 and --slices at least 3, not {args.size} and {args.slices}")
    for style in tqdm(STYLES, desc="Synthetic domains"):
        folder = args.output / "synthetic" / style
        write_domain(folder, style, size=args.size, slices=args.slices, seed=args.seed)
    print(f"{args.output / 'synthetic'}: {', '.join(STYLES)}, {args.slices} slices of {args.size} x {args.size} each")


if __name__ == "__main__":
    main()
