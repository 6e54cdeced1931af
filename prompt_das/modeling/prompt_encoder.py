"""Point-prompt encoder: coordinates to tokens (Prompt-DAS, Sec. 2.1)."""

from __future__ import annotations

import math

from prompt_das.modeling.registry import look_up

import torch
from detectron2.config import CfgNode, configurable
from fvcore.common.registry import Registry
from torch import Tensor, nn

PROMPT_ENCODER_REGISTRY = Registry("PROMPT_ENCODER")
PROMPT_ENCODER_REGISTRY.__doc__ = """
Encoders of prompts. Each is built as ``encoder(cfg, dim)`` and provides
``forward(points, image_size)`` and ``grid(grid_size)``, see :class:`PointPromptEncoder`.
"""


def build_prompt_encoder(cfg: CfgNode, dim: int) -> PointPromptEncoder:
    """Build ``cfg.MODEL.PROMPT_ENCODER.NAME`` for ``dim`` channels."""
    build = look_up(PROMPT_ENCODER_REGISTRY, "MODEL.PROMPT_ENCODER.NAME", cfg.MODEL.PROMPT_ENCODER.NAME)
    return build(cfg, dim)


@PROMPT_ENCODER_REGISTRY.register()
class PointPromptEncoder(nn.Module):
    """Random Fourier features of normalised coordinates; no learned part, and no token where there is no prompt.

    The frequencies are a buffer: student, teacher and checkpoint must share them.
    """

    @configurable
    def __init__(self, *, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", scale * torch.randn(2, dim // 2))

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        return {"dim": dim, "scale": cfg.MODEL.PROMPT_ENCODER.SCALE}

    @torch.autocast("cuda", enabled=False)  # bfloat16 has too few digits for the phase
    @torch.autocast("cpu", enabled=False)
    def encode(self, coordinates: Tensor) -> Tensor:
        """(..., 2) coordinates in [0, 1] -> (..., D) features."""
        phase = 2 * math.pi * ((2 * coordinates.float() - 1) @ self.frequencies.float())
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def forward(self, points: Tensor, image_size: tuple[int, int]) -> Tensor:
        """(B, N, 2) points (x, y) in pixels of an image of ``image_size`` (H, W) -> (B, N, D) tokens; N may be 0."""
        height, width = image_size
        return self.encode(torch.stack([points[..., 0] / width, points[..., 1] / height], dim=-1))

    def grid(self, grid_size: tuple[int, int]) -> Tensor:
        """The encoding of the centres of an (h, w) grid -> (D, h, w)."""
        h, w = grid_size
        device = self.frequencies.device
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        return self.encode(torch.stack([xx, yy], dim=-1)).permute(2, 0, 1)
