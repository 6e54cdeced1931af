#!/usr/bin/env python
"""Synthetic micrographs, with mitochondria outlined: the picture of docs/explanation/synthetic_source.md.

    python -m docs.contact_sheet --output docs/synthetic.jpg
    python -m docs.contact_sheet --output both.png --real scans/slice_017.png 8

``--real FILE NM`` (any number of times) puts crops of a real slice with pixels of so many nanometers below, at the same
scale, to compare by eye. What is in the repository has none: data of others stays out of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prompt_das.utils.visualization import draw_overlay, tile
from prompt_das.volumes.synthetic_tissue.micrograph import make_micrograph

import cv2
import numpy as np

COLUMNS = 8
SIZE = 128
PIXEL_SIZE = 20.0


def synthetic_tiles(number: int, seed: int) -> list[np.ndarray]:
    """Micrographs without and with outlines, in alternating rows."""
    drawn = [make_micrograph(np.random.default_rng([seed, n]), SIZE, PIXEL_SIZE) for n in range(number)]
    tiles = []
    for first in range(0, number, COLUMNS):
        row = drawn[first : first + COLUMNS]
        tiles += [cv2.cvtColor(one.image, cv2.COLOR_GRAY2RGB) for one in row]
        tiles += [draw_overlay(one.image, one.mitochondria) for one in row]
    return tiles


def real_tiles(file: str, pixel_size: float, rng: np.random.Generator) -> list[np.ndarray]:
    """A row of random crops of a slice, resampled to the pixels of the micrographs.

    Raises:
        SystemExit: the file cannot be read as an image, or is smaller than a crop.
    """
    image = cv2.imread(file, cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise SystemExit(f"{file} cannot be read as an image")
    scale = pixel_size / PIXEL_SIZE
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if min(image.shape) < SIZE:
        raise SystemExit(f"{file} is {image.shape} at {PIXEL_SIZE:g} nm, smaller than {SIZE} pixels")
    corners = [[rng.integers(side - SIZE + 1) for side in image.shape] for _ in range(COLUMNS)]
    return [cv2.cvtColor(image[y : y + SIZE, x : x + SIZE], cv2.COLOR_GRAY2RGB) for y, x in corners]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--number", type=int, default=3 * COLUMNS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", nargs=2, action="append", default=[], metavar=("FILE", "NM"))
    args = parser.parse_args()
    tiles = synthetic_tiles(args.number, args.seed)
    for file, pixel_size in args.real:
        tiles += real_tiles(file, float(pixel_size), np.random.default_rng(args.seed))
    sheet = tile(tiles, columns=COLUMNS)
    cv2.imwrite(str(args.output), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
