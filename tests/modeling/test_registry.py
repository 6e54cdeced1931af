"""A name that is not registered, for each part of the network that a config names."""

from __future__ import annotations

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling.load import build_model

import pytest


@pytest.mark.parametrize(
    ("key", "registered"),
    [
        ("MODEL.META_ARCHITECTURE", "PromptDAS"),
        ("MODEL.BACKBONE.NAME", "build_vit_backbone"),
        ("MODEL.PROMPT_ENCODER.NAME", "PointPromptEncoder"),
        ("MODEL.SEM_SEG_HEAD.NAME", "PointPromptSegHead"),
        ("MODEL.CENTER_HEAD.NAME", "CenterPointHead"),
    ],
)
def test_the_error_lists_the_names_there_are_and_how_to_add_one(tiny: list[str], key: str, registered: str) -> None:
    cfg = get_prompt_das_cfg(None, [*tiny, key, "Unheard"])
    with pytest.raises(ValueError, match=rf"{key} is 'Unheard'.*\b{registered}\b.*--plugin"):
        build_model(cfg)


def test_a_backbone_needs_the_output_vit(tiny: list[str]) -> None:
    cfg = get_prompt_das_cfg(None, [*tiny, "MODEL.BACKBONE.NAME", "build_resnet_backbone"])
    with pytest.raises(ValueError, match="whose outputs are res4; an output 'vit' is needed"):
        build_model(cfg)
