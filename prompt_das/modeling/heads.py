"""The two heads on the decoder's features: foreground mask and center-point density (Prompt-DAS, Sec. 2.1)."""

from __future__ import annotations

from prompt_das.modeling.decoder import MLP
from prompt_das.modeling.registry import look_up

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.common.registry import Registry
from torch import Tensor, nn

CENTER_HEAD_REGISTRY = Registry("CENTER_HEAD")
CENTER_HEAD_REGISTRY.__doc__ = """
Center-point heads. Each is built as ``head(cfg, in_channels)``; (B, C, H/2, W/2) features -> (B, H, W) density.
"""


def build_segmentation_head(cfg: CfgNode, dim: int, in_channels: int) -> nn.Module:
    """Build ``cfg.MODEL.SEM_SEG_HEAD.NAME`` for a ``dim``-channel mask token and ``in_channels`` features."""
    build = look_up(SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME)
    return build(cfg, dim, in_channels)


def build_center_head(cfg: CfgNode, in_channels: int) -> nn.Module:
    """Build ``cfg.MODEL.CENTER_HEAD.NAME`` for ``in_channels`` features."""
    build = look_up(CENTER_HEAD_REGISTRY, "MODEL.CENTER_HEAD.NAME", cfg.MODEL.CENTER_HEAD.NAME)
    return build(cfg, in_channels)


@SEM_SEG_HEADS_REGISTRY.register()
class PointPromptSegHead(nn.Module):
    """The mask token becomes a classifier of pixels: logit = MLP(token) . features."""

    @configurable
    def __init__(self, *, dim: int, in_channels: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, in_channels, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int, in_channels: int) -> dict:
        return {"dim": dim, "in_channels": in_channels}

    def forward(self, mask_token: Tensor, features: Tensor) -> Tensor:
        """mask_token (B, D), features (B, C, h, w) -> foreground logit (B, h, w) at the features' stride."""
        return (self.mlp(mask_token)[:, None] @ features.flatten(2)).unflatten(-1, features.shape[-2:]).squeeze(1)


@CENTER_HEAD_REGISTRY.register()
class CenterPointHead(nn.Module):
    """Convolutions at stride 2 and 1; a linear density of center points at full size."""

    @configurable
    def __init__(self, *, in_channels: int, channels: int, num_groups: int = 8) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), nn.GroupNorm(num_groups, channels), nn.ReLU()
        )
        self.fine = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(num_groups, channels),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 1),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict:
        return {"in_channels": in_channels, "channels": cfg.MODEL.CENTER_HEAD.CHANNELS}

    def forward(self, features: Tensor) -> Tensor:
        """features (B, C, H/2, W/2) -> density (B, H, W)."""
        # With channels last, convolutions of many channels take a third to a half less time on a CPU.
        features = features.contiguous(memory_format=torch.channels_last)
        x = F.interpolate(self.coarse(features), scale_factor=2, mode="bilinear", align_corners=False)
        return self.fine(x).squeeze(1)
