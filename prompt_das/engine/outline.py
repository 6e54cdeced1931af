"""Where outlines lie in a volume whose objects have a known diameter, as a setting of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompt_das.adaptation.outline_fit import fit_outline
from prompt_das.data.crop_reader import CropReader
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.modeling.load import load_model

OUTLINE = "MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY"


def outline_of_diameter(
    weights: str | Path,
    volume: VolumeSource,
    *,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
) -> list[str]:
    """The setting (KEY, VALUE) by which outlines follow from the volume's ``diameter``.

    Nothing where no diameter is stated, or ``opts`` says already where outlines lie.

    Args:
        weights, config_file, opts, plugins: the network, see :func:`prompt_das.modeling.load.load_model`.

    Raises:
        FileNotFoundError: no weights, config, volume or points.
        ValueError: an argument, the weights or the volume make no sense; the message says which.
    """
    if volume.diameter is None or OUTLINE in opts[::2]:
        return []
    cfg, model = load_model(weights, config_file, opts, plugins)
    opened = volume.open()
    crop = CropReader(cfg.INPUT.CROP_SIZE, volume.scale(cfg, opened.voxel_size))
    return [OUTLINE, repr(fit_outline(model, opened.slices, opened.prompts, crop, volume.diameter))]
