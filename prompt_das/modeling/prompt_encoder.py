"""Prompt encoders: from points and clicks to tokens, and to a dense map (Prompt-DAS, Sec. 2.1).

Shape legend: B images; N prompts, padded with a validity mask; D channels; H, W pixels; h, w patch grid.
"""

from __future__ import annotations

import math

from prompt_das.modeling.registry import look_up
from prompt_das.ops.points import render_density, split_labels

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from fvcore.common.registry import Registry
from torch import Tensor, nn

PROMPT_ENCODER_REGISTRY = Registry("PROMPT_ENCODER")
PROMPT_ENCODER_REGISTRY.__doc__ = """
Encoders of prompts. Each is built as ``encoder(cfg, dim)``; :class:`PointPromptEncoder` shows what it provides.
"""


def build_prompt_encoder(cfg: CfgNode, dim: int) -> PointPromptEncoder:
    """Build ``cfg.MODEL.PROMPT_ENCODER.NAME`` for ``dim`` channels."""
    build = look_up(PROMPT_ENCODER_REGISTRY, "MODEL.PROMPT_ENCODER.NAME", cfg.MODEL.PROMPT_ENCODER.NAME)
    return build(cfg, dim)


@PROMPT_ENCODER_REGISTRY.register()
class PointPromptEncoder(nn.Module):
    """The paper's: random Fourier features of normalized coordinates; no learned part, no token without a prompt.

    The frequencies are a buffer: student, teacher and checkpoint must share them.

    Attributes:
        uses_labels: whether negative clicks are encoded; otherwise they are left out.
    """

    uses_labels = False

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
        """Points (B, N, 2), or clicks (B, N, 3), in pixels of an image of (H, W) -> (B, N, D) tokens; N may be 0."""
        height, width = image_size
        return self.encode(torch.stack([points[..., 0] / width, points[..., 1] / height], dim=-1))

    def dense(
        self, points: Tensor, valid: Tensor, image_size: tuple[int, int], grid_size: tuple[int, int]
    ) -> Tensor | None:
        """What the prompts (B, N, 2 or 3), with validity (B, N), add to the image embedding: (B, D, h, w), or None."""
        return None

    def grid(self, grid_size: tuple[int, int]) -> Tensor:
        """The encoding of the centers of an (h, w) grid -> (D, h, w)."""
        h, w = grid_size
        device = self.frequencies.device
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        return self.encode(torch.stack([xx, yy], dim=-1)).permute(2, 0, 1)


@PROMPT_ENCODER_REGISTRY.register()
class ClickPromptEncoder(PointPromptEncoder):
    """Positive and negative clicks, each a token and a Gaussian in a dense map.

    The dense map is the short way from a click to its place: it is added to the image embedding before the decoder,
    where SAM adds its dense prompts. With no clicks it is zero.
    """

    uses_labels = True

    @configurable
    def __init__(self, *, dim: int, scale: float, patch_size: int, sigma: float) -> None:
        """
        Args:
            patch_size: pixels of the image in a pixel of the embedding, along each axis.
            sigma: standard deviation of the Gaussian at a click, in pixels of the image.
        """
        super().__init__(dim=dim, scale=scale)
        self.patch_size = patch_size
        self.sigma = sigma
        self.label_embedding = nn.Parameter(torch.zeros(2, dim))  # added to the tokens of negative, positive clicks
        self.projection = nn.Conv2d(2 * patch_size**2, dim, 1, bias=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        return {
            **PointPromptEncoder.from_config(cfg, dim),
            "patch_size": cfg.MODEL.VIT.PATCH_SIZE,
            "sigma": cfg.MODEL.CENTER_HEAD.SIGMA,
        }

    def forward(self, points: Tensor, image_size: tuple[int, int]) -> Tensor:
        """As :meth:`PointPromptEncoder.forward`, with the embedding of the clicks' labels added."""
        _, positive = split_labels(points)
        return super().forward(points, image_size) + self.label_embedding[positive.long()]

    def dense(
        self, points: Tensor, valid: Tensor, image_size: tuple[int, int], grid_size: tuple[int, int]
    ) -> Tensor | None:
        """Gaussians at the valid positive and negative clicks, projected to (B, D, h, w)."""
        coordinates, positive = split_labels(points)
        maps = [render_density(coordinates, valid & kind, image_size, self.sigma) for kind in (positive, ~positive)]
        return self.projection(F.pixel_unshuffle(torch.stack(maps, dim=1), self.patch_size))
