"""The two-way transformer: tokens attend to the image, the image attends to the tokens.

The decoder of Segment Anything (Kirillov et al. 2023) as Prompt-DAS uses it (Sec. 2.1), with attention masks.

Shape legend, used by every docstring below:
    B: images; T: tokens; K: image positions (h * w); D: channels; Q, S: length of the query and of the key sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose inner width is ``dim / downsample_rate``."""

    def __init__(self, dim: int, num_heads: int, downsample_rate: int = 2) -> None:
        super().__init__()
        inner = dim // downsample_rate
        if inner % num_heads:
            raise ValueError(
                f"attention width {dim} / {downsample_rate} = {inner} is not divisible by {num_heads} heads; "
                "change MODEL.DECODER.NUM_HEADS or MODEL.DECODER.ATTENTION_DOWNSAMPLE_RATE"
            )
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """q (B, Q, D), k and v (B, S, D), attn_mask (B or 1, Q or 1, S) bool, True = attended to -> (B, Q, D)."""
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        out = scaled_dot_product_attention(q, k, v, None if attn_mask is None else attn_mask.unsqueeze(1))
        return self.out_proj(out.transpose(1, 2).flatten(2))


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Torch's attention; in float32 where a CPU computes gradients, which takes a third of the time of bfloat16."""
    if q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=attn_mask)


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens; each with a residual and a LayerNorm."""

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int = 2, *, skip_first_layer_pe: bool = False
    ) -> None:
        """``skip_first_layer_pe``: in the first block self-attention replaces the tokens, without positional part."""
        super().__init__()
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(dim, num_heads, downsample_rate)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_pe: Tensor,
        image_pe: Tensor,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens and token_pe (B, T, D), image and image_pe (B or 1, K, D) -> the updated tokens and image.

        ``attn_mask`` (B, 1, T) bool True = attended to, by tokens and by the image; None: all.
        """
        tokens = self.update_tokens(tokens, image, token_pe, image_pe, attn_mask)
        attended = self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens, attn_mask)
        return tokens, self.norm4(image + attended)

    def update_tokens(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Tokens attend to each other and to the image, which stays as it is -> (B, T, D)."""
        if self.skip_first_layer_pe:
            tokens = self.self_attn(tokens, tokens, tokens, attn_mask)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens, attn_mask)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        return self.norm3(tokens + self.mlp(tokens))


class TwoWayTransformer(nn.Module):
    """A stack of :class:`TwoWayBlock` and a last attention from tokens to image."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int, downsample_rate: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads, mlp_dim, downsample_rate, skip_first_layer_pe=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, image_pe: Tensor, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens and image attend to each other.

        Args:
            tokens, image, image_pe: (B, T, D), (B, K, D), (1, K, D).
            attn_mask: (B, 1, T) bool: the tokens that are attended to; None: all.

        Returns:
            The tokens, and the image before each block and after the last one.
        """
        token_pe, images = tokens, [image]
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, attn_mask)
            images.append(image)
        return self.final_attention(tokens, image, token_pe, image_pe), images

    def attend_read_only(
        self, tokens: Tensor, images: list[Tensor], image_pe: Tensor, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Attention of additional tokens that changes neither the image nor other tokens.

        Args:
            tokens: (B', R, D) of the last B' >= 1 images; they attend to each other and to the image of each block.
            images: what :meth:`forward` returned.
            attn_mask: (B', 1, R) bool: those of these tokens that are attended to; None: all.

        Returns:
            (B', R, D).
        """
        token_pe, images = tokens, [image[-len(tokens) :] for image in images]
        for layer, image in zip(cast(Iterable[TwoWayBlock], self.layers), images[:-1], strict=True):
            tokens = layer.update_tokens(tokens, image, token_pe, image_pe, attn_mask)
        return self.final_attention(tokens, images[-1], token_pe, image_pe)

    def final_attention(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> Tensor:
        """Tokens (B, T, D) attend to the image (B, K, D) after the last block -> (B, T, D)."""
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended)
