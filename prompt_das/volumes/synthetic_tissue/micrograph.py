"""A whole micrograph with the truth about it."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_das.volumes.synthetic_tissue.cells import draw_cells, draw_membranes, draw_myelin, draw_nucleus
from prompt_das.volumes.synthetic_tissue.microscope import take_picture
from prompt_das.volumes.synthetic_tissue.mitochondria import draw_mitochondria
from prompt_das.volumes.synthetic_tissue.organelles import COMPACT, draw_organelles
from prompt_das.volumes.synthetic_tissue.style import Style, random_style

import cv2
import numpy as np

FINER = 2  # pixels of the drawing for one of the micrograph, along each side
ZOOM = (0.7, 1.5)  # sizes vary between tissues, and stated pixel sizes are not exact


@dataclass(frozen=True)
class Micrograph:
    """An image, and each object in it.

    Attributes:
        image: (H, W) uint8.
        mitochondria: (H, W) uint16 ids, 0 where there is none.
        objects: (H, W) uint16 ids of all other objects, 0 where there is none.
        classes: the name of each of them; id 1 is the first.
        style: how it was drawn.
    """

    image: np.ndarray
    mitochondria: np.ndarray
    objects: np.ndarray
    classes: tuple[str, ...]
    style: Style

    def compact_objects(self) -> np.ndarray:
        """``objects`` (H, W) that have a border of their own: no clouds of vesicles, reticulum, myelin or synapses."""
        kept = np.array([0, *(i if name in COMPACT else 0 for i, name in enumerate(self.classes, 1))], np.uint16)
        return kept[self.objects]


def make_micrograph(
    rng: np.random.Generator, size: int, pixel_size: float = 20.0, style: Style | None = None
) -> Micrograph:
    """Draw a square micrograph, the same for the same random numbers.

    Args:
        size: of a side, in pixels.
        pixel_size: in nanometers.
        style: a random one by default.
    """
    style = random_style(rng) if style is None else style
    nm = FINER / pixel_size * float(np.exp(rng.uniform(*np.log(ZOOM))))
    canvas = draw_cells(rng, (FINER * size, FINER * size), nm, style)
    if style.tissue in ("soma", "packed") and rng.random() < 0.25:
        draw_nucleus(canvas, style)
    if style.tissue in ("neuropil", "bundle") and rng.random() < 0.15:
        draw_myelin(canvas, style)
    draw_membranes(canvas, style)
    draw_mitochondria(canvas, style)
    draw_organelles(canvas, style)
    tissue = cv2.resize(canvas.picture, (size, size), interpolation=cv2.INTER_AREA)
    every = slice(FINER // 2, None, FINER)
    image, missing = take_picture(rng, tissue, style)
    return Micrograph(
        image,
        np.where(missing, 0, canvas.mitochondria[every, every]),
        np.where(missing, 0, canvas.objects[every, every]),
        tuple(canvas.classes),
        style,
    )
