"""Sample data: File > Open Sample > Prompt-DAS."""

from __future__ import annotations

from typing import Any

from prompt_das.volumes.synthetic import make_synthetic_volume

SHAPE = (24, 256, 256)
VOXEL_SIZE = (45, 12, 12)  # nm: typical mitochondria are 20 pixels wide
SEED = 1  # not that of `prompt-das make-synthetic`: a volume that networks trained there have not seen


def synthetic_volume() -> list[tuple[Any, dict[str, Any], str]]:
    """The synthetic target domain, in a style that no training of `em-small` has drawn."""
    images, _ = make_synthetic_volume(SHAPE, "target", SEED)
    return [(images, {"name": "synthetic EM", "scale": VOXEL_SIZE, "units": ("nm",) * 3}, "image")]
