"""The parts of a network that a config names: which there are, and a clear error for a name that is not among them."""

from __future__ import annotations

from prompt_das.config.validation import value_of
from prompt_das.modeling.heads import CENTER_HEAD_REGISTRY
from prompt_das.modeling.prompt_encoder import PROMPT_ENCODER_REGISTRY

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
    """Raise ValueError for a part that nobody registered: names the key, what there is, and how one is added."""
    for key, registry in REGISTRIES.items():
        name, known = value_of(cfg, key), sorted(known for known, _ in registry)
        if name not in known:
            raise ValueError(
                f"{key} is {name!r}, which is not registered; there are {', '.join(known)}. To add one, put "
                f"@{registry._name}_REGISTRY.register() before its class or function, and import that module first"
            )
