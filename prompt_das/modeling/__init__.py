"""The network. Importing this package fills the Detectron2 registries."""

from prompt_das.modeling.backbone import ViTBackbone, build_vit_backbone
from prompt_das.modeling.decoder import PromptDecoder
from prompt_das.modeling.heads import CENTER_HEAD_REGISTRY, CenterPointHead, PointPromptSegHead
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.prompt_encoder import PROMPT_ENCODER_REGISTRY, PointPromptEncoder

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
