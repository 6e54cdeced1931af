"""Sample data: File > Open Sample > Prompt-DAS."""

from __future__ import annotations

from typing import Any

from prompt_das.volumes.synthetic import make_synthetic_volume

SHAPE = (24, 256, 256)
VOXEL_SIZE = (30, 8, 8)  # nm, as in MitoEM
SEED = 1  # not that of `prompt-das make-synthetic`: a volume that the networks of the demo have not seen


def synthetic_volume() -> list[tuple[Any, dict[str, Any], str]]:
    """The synthetic target domain, which the weights that `make demo` leaves are adapted to."""
    images, _ = make_synthetic_volume(SHAPE, "target", SEED)
    return [(images, {"name": "synthetic EM", "scale": VOXEL_SIZE, "units": ("nm",) * 3}, "image")]
