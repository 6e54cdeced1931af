"""Proposals of the places in a volume that are worth clicking next, see :mod:`prompt_das.adaptation.proposals`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prompt_das.adaptation.proposals import NEAR_SIGMAS, Proposal, choose, propose_in_slice
from prompt_das.data.slices import read_image
from prompt_das.inference.volume.progress import SliceBar
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.modeling.load import load_model
from prompt_das.modeling.meta_arch import NO_PROMPTS

import numpy as np
import torch

SEARCHED = 32  # slices: neighbors show the same objects, and a large volume would take hours


def propose_clicks(
    weights: str | Path,
    volume: VolumeSource,
    number: int,
    *,
    num_slices: int = SEARCHED,
    opts: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    progress: bool = True,
) -> list[Proposal]:
    """Search evenly spread slices of a volume for the places where the network expects its largest errors.

    Args:
        weights: as :func:`~prompt_das.modeling.load.load_model` takes them.
        volume: with the clicks that there are already; places near them are left out.
        number: of places, at most.
        num_slices: at most so many slices are searched.
        opts: overrides of the config (KEY, VALUE, ...).

    Returns:
        proposals by falling score; fewer than ``number`` where the network is sure of the rest.

    Raises:
        FileNotFoundError: no weights, volume or clicks.
        ValueError: one of them, or a number, makes no sense (VolumeError: damaged data).
    """
    if number < 1 or num_slices < 1:
        raise ValueError(f"{number} places on {num_slices} slices are none; give numbers of at least 1")
    # A component of low confidence, which a prediction leaves out, may be an object that is worth a click.
    cfg, model = load_model(weights, opts=[*opts, "TEST.MIN_CONFIDENCE", "0.0"], plugins=plugins)
    opened = volume.open()
    scale = volume.scale(cfg, opened.voxel_size)
    sigma = cfg.MODEL.CENTER_HEAD.SIGMA / scale
    steps = np.linspace(0, len(opened.slices) - 1, min(num_slices, len(opened.slices)))
    searched = [opened.slices[i] for i in np.unique(steps.round().astype(int))]
    candidates: list[Proposal] = []
    with SliceBar("Searching", len(searched), 0, progress) as bar:
        for dataset_dict in searched:
            image = read_image(dataset_dict, scale=scale)
            size = (dataset_dict["height"], dataset_dict["width"])
            (probability,) = model.predict_slice(torch.from_numpy(image)[None], NO_PROMPTS, size)["sem_seg"].values()
            candidates += propose_in_slice(
                probability.float().cpu().numpy(), dataset_dict["slice"], number, sigma=sigma, taken=opened.prompts
            )
            bar.slice_done()
    per_slice = math.ceil(2 * number / len(searched))
    return choose(candidates, number, radius=NEAR_SIGMAS * sigma, taken=opened.prompts, per_slice=per_slice)
