"""What differs from one volume to the next: tissue, staining and microscope, drawn at random for each micrograph.

Domain randomization (Tremblay et al. 2018): where the styles of the source vary more than real tissue does, a real
volume is one more of them. Lengths are in nanometers, gray values between 0 (black) and 1 (white).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Tissue = Literal["neuropil", "soma", "packed", "bundle"]
TISSUES: tuple[Tissue, ...] = ("neuropil", "soma", "packed", "bundle")
TISSUE_PROBABILITY = (0.65, 0.15, 0.12, 0.08)
Cristae = Literal["lamellar", "tubular", "concentric", "irregular", "none"]
CRISTAE: tuple[Cristae, ...] = ("lamellar", "tubular", "concentric", "irregular", "none")
WINDING_CELLS: tuple[Literal["", "plain", "dark", "empty"], ...] = ("", "plain", "dark", "empty")
WINDING_PROBABILITY = (0.45, 0.15, 0.28, 0.12)
CRISTAE_PROBABILITY = (0.5, 0.14, 0.08, 0.23, 0.05)


@dataclass(frozen=True)
class Style:
    """The look of one micrograph."""

    tissue: Tissue
    # Cells
    cytoplasm: float
    cytoplasm_spread: float  # standard deviation between cells
    dark_cells: float  # share of cells with dark cytoplasm, as glia
    empty_cells: float  # share of cells that are lumen, resin or extracellular space
    grain: float  # contrast of the texture of cytoplasm
    grain_size: float
    clouds: float  # contrast of crowded parts: vesicles out of focus, dense cytoplasm
    fibers: float  # contrast of microtubules and filaments
    membrane: float
    membrane_width: float
    oblique: float  # share of the membranes that are cut obliquely: gray bands instead of lines
    winding_cell: Literal["", "plain", "dark", "empty"]  # between all others: glia, or extracellular space
    extracellular_gap: float
    dark_gap: bool  # thin dark processes, as of glia, in the place of extracellular space
    # Mitochondria
    mitochondria: float  # a square micrometer
    radius: tuple[float, float]  # smallest and largest
    elongation: float  # typical half length of the axis, in radii
    branched: float  # share with a side branch
    touching: float  # share with another pressed against it
    crowded: float  # share in cytoplasm that is nearly as dark
    filling: float  # share that fills its cell, as in thin processes
    matrix: float
    matrix_spread: float  # standard deviation between mitochondria
    matrix_grain: float
    rim: float  # gray value of the outer membrane
    rim_width: float
    inner_gap: float  # contrast of the pale space between the two membranes
    cristae: Cristae
    cristae_contrast: float  # negative where they are paler than the matrix
    cristae_period: float
    # Other organelles, each a typical number a square micrometer
    others: dict[str, float]
    # Microscope
    blur: float  # standard deviation in pixels of the micrograph
    noise: float
    shot_noise: float
    line_noise: float
    gamma: float
    mean: float
    contrast: float  # standard deviation of the gray values in the end
    inverted: bool


OTHERS = {  # the largest typical number a square micrometer
    "lysosome": 0.15,
    "lipid droplet": 0.1,
    "peroxisome": 0.02,
    "multivesicular body": 0.1,
    "vacuole": 0.5,
    "reticulum": 1.2,
    "reticulum stack": 0.15,
    "golgi": 0.15,
    "vesicles": 0.8,
    "dense vesicles": 0.4,
    "synapse": 0.8,
    "whorl": 0.05,
}


def random_style(rng: np.random.Generator) -> Style:
    """Draw a style: how far it may be from what is typical of electron micrographs is drawn first."""
    spread = float(rng.random())

    def uniform(low: float, high: float) -> float:
        middle = (low + high) / 2
        return float(middle + spread * (rng.uniform(low, high) - middle))

    def with_probability(probability: float) -> bool:
        """At most this probability, and that only of the least typical styles."""
        return bool(rng.random() < probability * spread)

    tissue = TISSUES[rng.choice(len(TISSUES), p=TISSUE_PROBABILITY)]
    cytoplasm = uniform(0.55, 0.85)
    small = float(np.exp(uniform(np.log(75), np.log(190))))  # radius of the smallest mitochondria
    cristae = CRISTAE[rng.choice(len(CRISTAE), p=CRISTAE_PROBABILITY)]
    # Mostly darker than cytoplasm, sometimes alike or paler.
    matrix = cytoplasm - (uniform(-0.08, 0.06) if with_probability(0.08) else uniform(0.08, 0.36))
    density = float(np.exp(uniform(np.log(0.35), np.log(1.5)))) * (2.0 if tissue == "packed" else 1.0)
    return Style(
        tissue=tissue,
        cytoplasm=cytoplasm,
        cytoplasm_spread=uniform(0.0, 0.08),
        dark_cells=uniform(0.05, 0.3) if with_probability(0.7) else 0.0,
        empty_cells=uniform(0, 0.15) if with_probability(0.7) else 0.0,
        grain=uniform(0.01, 0.11),
        grain_size=uniform(12, 45),
        clouds=uniform(0.05, 0.3) if with_probability(0.7) else 0.0,
        fibers=uniform(0, 0.08),
        membrane=max(cytoplasm - uniform(0.25, 0.68), 0.02),
        membrane_width=uniform(9, 26),
        oblique=uniform(0, 0.3),
        winding_cell=WINDING_CELLS[rng.choice(len(WINDING_CELLS), p=WINDING_PROBABILITY)],
        extracellular_gap=uniform(6, 24) if with_probability(0.4) else 0.0,
        dark_gap=rng.random() < 0.3,
        mitochondria=density,
        radius=(small, small * uniform(1.3, 2.4)),
        elongation=uniform(0.1, 3.0),
        branched=uniform(0, 0.25),
        touching=uniform(0, 0.4),
        crowded=uniform(0, 0.6),
        filling=uniform(0, 0.4),
        matrix=max(matrix, 0.05),
        matrix_spread=uniform(0, 0.06),
        matrix_grain=uniform(0.01, 0.09),
        rim=max(min(cytoplasm, matrix) - uniform(0.08, 0.36), 0.02),
        rim_width=uniform(9, 24),
        inner_gap=uniform(0, 0.2) if rng.random() < 0.5 else 0.0,
        cristae=cristae,
        cristae_contrast=uniform(0.08, 0.34) * (-1 if with_probability(0.25) else 1),
        cristae_period=uniform(35, 120),
        others={name: most * float(rng.random()) ** 2 for name, most in OTHERS.items()},
        blur=uniform(0.0, 0.9),
        noise=uniform(0.005, 0.06),
        shot_noise=uniform(0, 0.04) if with_probability(0.8) else 0.0,
        line_noise=uniform(0, 0.03) if with_probability(0.5) else 0.0,
        gamma=float(np.exp(uniform(-0.35, 0.35))),
        mean=uniform(95, 175),
        contrast=uniform(22, 55),
        inverted=with_probability(0.03),
    )
