"""The network. Importing this package fills the Detectron2 registries."""

from .backbone import ViTBackbone, build_vit_backbone
from .decoder import PromptDecoder
from .heads import CENTER_HEAD_REGISTRY, CenterPointHead, PointPromptSegHead
from .meta_arch import PromptDAS
from .prompt_encoder import PROMPT_ENCODER_REGISTRY, PointPromptEncoder

__all__ = [
    "CENTER_HEAD_REGISTRY",
    "PROMPT_ENCODER_REGISTRY",
    "CenterPointHead",
    "PointPromptEncoder",
    "PointPromptSegHead",
    "PromptDAS",
    "PromptDecoder",
    "ViTBackbone",
    "build_vit_backbone",
]
