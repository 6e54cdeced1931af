"""Names and layouts of the authors' published checkpoints, translated into ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

# Their forward pass never reads these.
UNUSED = re.compile(
    r"(image_encoder\.cls_token|prompt_encoder\.(point_embeddings\.\d+|not_a_point_embed|no_mask_embed)\.weight|pe_layer\..*"
    r"|mask_decoder\.transformer\.layers\.\d+\.\w+\.attention\.out_proj\.(weight|bias))"
)
RENAMED = [
    (r"^image_encoder\.", "backbone.vit."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "prompt_encoder.frequencies"),
    (r"^mask_decoder\.transformer\.", "decoder.transformer."),
    (r"\.mlp\.lin1\.", ".mlp.0."),
    (r"\.mlp\.lin2\.", ".mlp.2."),
    (r"^mask_decoder\.mask_tokens\.weight$", "decoder.mask_token"),
    (r"^mask_decoder\.output_upscaling\.", "decoder.upsampling."),
    (r"^mask_decoder\.output_hypernetworks_mlps\.layers\.", "segmentation_head.mlp."),
    (r"^mask_decoder\.Contrast_mlp\.layers\.", "decoder.contrastive_mlp."),
    (r"^mask_decoder\.decode_head1\.", "center_head.coarse."),
    (r"^mask_decoder\.decode_head2\.", "center_head.fine."),
]


def convert_reference_state_dict(state_dict: Mapping[str, Tensor], grid: int = 48) -> dict[str, Tensor]:
    """The authors' state dict as ours, for the paper-size network on crops of ``grid * 8`` pixels.

    Besides the names only the position embedding changes: it is resized to the ``grid`` as DINO does it. Dropped is
    what their forward pass never reads: the CLS token, the prompt types, and the inner ``attention.out_proj`` of the
    masked attentions, whose output goes through ``out_proj`` alone.

    Raises:
        ValueError: names that the authors' network does not have.
    """
    source = dict(state_dict)
    converted: dict[str, Tensor] = {}
    for name in source:
        if UNUSED.fullmatch(name):
            continue
        new, value = rename(name), source[name]
        if new is None:
            raise ValueError(f"{name!r} is not a parameter of the authors' network")
        if name == "image_encoder.pos_embed":
            value = resize_position_embedding(value, grid)
        converted[new] = value
    return converted


def rename(name: str) -> str | None:
    """Our name for one of theirs; None if it is not one of theirs."""
    new = name
    for pattern, replacement in RENAMED:
        new = re.sub(pattern, replacement, new)
    match = re.match(r"^((?:segmentation_head\.mlp|decoder\.contrastive_mlp)\.)(\d+)(\..*)$", new)
    if match:  # a ReLU stands between two linear layers
        new = f"{match[1]}{2 * int(match[2])}{match[3]}"
    return None if new == name else new


def resize_position_embedding(embedding: Tensor, grid: int) -> Tensor:
    """(1, 1 + n * n, D), the CLS token's first -> (1, grid * grid, D); bicubic, DINO's scale (grid + 0.1) / n."""
    patches = embedding[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return patches
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode="bicubic")
    return patches.permute(0, 2, 3, 1).flatten(1, 2)
