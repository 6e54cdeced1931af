"""Prompt decoder: image features and prompt tokens in, mask token and up-sampled features out (Prompt-DAS, Sec. 2.1).

Shape legend: B images; N prompts of each, and M contrastive tokens of the last B' images, both padded, with a validity
mask; D channels; h, w patch grid.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from prompt_das.modeling.high_res_features import HighResUpsampling
from prompt_das.modeling.two_way_transformer import TwoWayTransformer

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Sequential):
    """``num_layers`` linear layers with ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(dims)):
            layers += [nn.ReLU()] * (i > 0) + [nn.Linear(a, b)]
        super().__init__(*layers)


class DecoderOutput(NamedTuple):
    mask_token: Tensor  # (B, D)
    contrastive: Tensor  # (B', M, D) embeddings of the contrastive tokens; (B, 0, D) without any
    image: Tensor  # (B, D, h, w): the image embedding after the last block
    features: Tensor  # (B, D // 8, 4 h, 4 w), shared by both heads


def attention_masks(prompt_valid: Tensor, contrastive_valid: Tensor) -> tuple[Tensor, Tensor]:
    """Attended tokens: (B, N), (B', M) bool -> mask token and prompts (B, 1, 1 + N), contrastive (B', 1, M).

    Padding is not attended to, except where all contrastive tokens are padding: attention to nothing would be NaN.
    """
    only_padding = ~contrastive_valid.any(1, keepdim=True)
    return F.pad(prompt_valid, (1, 0), value=True)[:, None], (contrastive_valid | only_padding)[:, None]


class PromptDecoder(nn.Module):
    """One learned mask token and any number of prompts, two-way attention, up-sampling to stride ``patch / 4``."""

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        attention_downsample_rate: int,
        high_res_features: bool = False,
    ) -> None:
        """
        Args:
            high_res_features: whether the up-sampling takes up features of a HighResEncoder.
        """
        super().__init__()
        self.dim = dim
        self.mask_token = nn.Parameter(torch.randn(1, dim))
        self.transformer = TwoWayTransformer(dim, depth, num_heads, mlp_dim, attention_downsample_rate)
        self.upsampling: nn.Module
        if high_res_features:
            self.upsampling = HighResUpsampling(dim)
        else:
            self.upsampling = nn.Sequential(
                nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
                ChannelLayerNorm(dim // 4, eps=1e-6),
                nn.GELU(),
                nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
                nn.GELU(),
            )
        self.contrastive_mlp = MLP(dim, dim, dim, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict:
        node = cfg.MODEL.DECODER
        return {
            "dim": dim,
            "depth": node.DEPTH,
            "num_heads": node.NUM_HEADS,
            "mlp_dim": node.MLP_DIM,
            "attention_downsample_rate": node.ATTENTION_DOWNSAMPLE_RATE,
            "high_res_features": node.HIGH_RES_FEATURES,
        }

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        prompts: Tensor,
        prompt_valid: Tensor,
        contrastive: Tensor | None = None,
        contrastive_valid: Tensor | None = None,
        high_res: Tensor | None = None,
    ) -> DecoderOutput:
        """image (B, D, h, w), image_pe (D, h, w), prompts (B, N, D), contrastive (B', M, D); masks (B, N), (B', M).

        ``high_res`` (B, 3 D, h, w): of a HighResEncoder; needed with, and only with, ``high_res_features``.
        N and M may be 0. Contrastive tokens attend to the image and to each other, not to the prompts; nothing attends
        to contrastive tokens (after DN-DETR). So they cannot change what the heads predict.
        """
        b, d, h, w = image.shape
        if contrastive is None or contrastive_valid is None:
            contrastive, contrastive_valid = prompts[:, :0], prompt_valid[:, :0]
        tokens = torch.cat([self.mask_token.expand(b, 1, d), prompts], dim=1)
        mask, contrastive_mask = attention_masks(prompt_valid, contrastive_valid)
        pe = image_pe.flatten(1).T[None]
        tokens, images = self.transformer(tokens, image.flatten(2).transpose(1, 2), pe, mask)
        if contrastive.shape[1]:
            contrastive = self.transformer.attend_read_only(contrastive, images, pe, contrastive_mask)
        last = images[-1]
        del images  # frees memory for the up-sampling in prediction
        last = last.transpose(1, 2).reshape(b, d, h, w)
        features = self.upsampling(last) if high_res is None else self.upsampling(last, high_res)
        return DecoderOutput(tokens[:, 0], self.contrastive_mlp(contrastive), last, features)

    def embed_points(self, image: Tensor, points: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Contrastive embeddings of what the image shows at some points.

        Args:
            image: (B, D, h, w), ``DecoderOutput.image`` of the last B' >= 1 images and others before them.
            points: (B', M, 2) in pixels of an image of ``image_size`` (H, W).

        Returns:
            (B', M, D).
        """
        height, width = image_size
        grid = 2 * points / points.new_tensor([width, height]) - 1
        sampled = F.grid_sample(image[-len(points) :].float(), grid[:, None], align_corners=False)  # (B', D, 1, M)
        return self.contrastive_mlp(sampled[:, :, 0].transpose(1, 2))
