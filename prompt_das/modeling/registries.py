"""The registries of the five parts of a network that a config names."""

from __future__ import annotations

from prompt_das.config.validation import value_of
from prompt_das.modeling.heads import CENTER_HEAD_REGISTRY
from prompt_das.modeling.prompt_encoder import PROMPT_ENCODER_REGISTRY
from prompt_das.modeling.registry import look_up

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROMPT_ENCODER.NAME": PROMPT_ENCODER_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.CENTER_HEAD.NAME": CENTER_HEAD_REGISTRY,
}


def check_registered(cfg: CfgNode) -> None:
    """Raise ValueError for a part that is not registered, see :func:`~prompt_das.modeling.registry.look_up`."""
    for key, registry in REGISTRIES.items():
        look_up(registry, key, value_of(cfg, key))
