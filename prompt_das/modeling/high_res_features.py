"""Image features finer than the patch grid, for the masks' borders and for objects of the size of a patch.

Where a mitochondrion is a patch or two wide, patch tokens alone blur it. As in SAM 2 (Ravi et al. 2024) and ViTMatte
(Yao et al. 2024), a few convolutions of the image itself are taken up where the decoder up-samples. Not in the paper.

Shape legend: B images; H, W pixels; D channels; h, w patch grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn


def conv_block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, normalized over all channels of an image, with GELU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(1, out_channels), nn.GELU())


class HighResEncoder(nn.Module):
    """Features at strides ``patch_size / 4`` and ``patch_size / 2``, folded to the patch grid.

    Folded (pixel-unshuffled), they are further channels of the image embedding: one tensor to repeat and to cache.
    """

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 3
        if halvings < 0 or 4 * 2**halvings != patch_size or dim % 8:
            raise ValueError(
                "MODEL.DECODER.HIGH_RES_FEATURES needs a MODEL.VIT.PATCH_SIZE of 4, 8, 16 ..., and 8 to divide "
                f"MODEL.VIT.EMBED_DIM; they are {patch_size} and {dim}"
            )
        self.out_channels = 3 * dim
        fine = [conv_block(3, dim // 8, stride=2 if halvings else 1)]
        fine += [conv_block(dim // 8, dim // 8, stride=2) for _ in range(halvings - 1)]
        self.fine = nn.Sequential(*fine, conv_block(dim // 8, dim // 8))
        self.coarse = nn.Sequential(conv_block(dim // 8, dim // 4, stride=2), conv_block(dim // 4, dim // 4))

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> (B, 3 D, h, w)."""
        fine = self.fine(images)
        return torch.cat([F.pixel_unshuffle(fine, 4), F.pixel_unshuffle(self.coarse(fine), 2)], dim=1)


class HighResUpsampling(nn.Module):
    """The decoder's up-sampling to stride ``patch_size / 4``, which takes up the features of a HighResEncoder."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        coarse, fine = dim // 4, dim // 8
        self.up1 = nn.ConvTranspose2d(dim, coarse, 2, stride=2)
        self.norm = LayerNorm2d(coarse)
        self.merge1 = conv_block(2 * coarse, coarse)
        self.up2 = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.merge2 = nn.Sequential(conv_block(2 * fine, fine), nn.Conv2d(fine, fine, 3, padding=1))

    def forward(self, image: Tensor, high_res: Tensor) -> Tensor:
        """The embedding after the last block (B, D, h, w), folded features (B, 3 D, h, w) -> (B, D // 8, 4 h, 4 w)."""
        fine, coarse = high_res.split([2 * image.shape[1], image.shape[1]], dim=1)
        x = F.gelu(self.norm(self.up1(image)))
        x = x + self.merge1(torch.cat([x, F.pixel_shuffle(coarse, 2).to(x.dtype)], dim=1))
        x = F.gelu(self.up2(x))
        return x + self.merge2(torch.cat([x, F.pixel_shuffle(fine, 4).to(x.dtype)], dim=1))
