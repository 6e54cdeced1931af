"""The authors' published checkpoints: their names and shapes, and the translation into ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prompt_das.checkpoint.state_dict import Expected, require_matching_state

import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]

# What their forward pass never reads. The CLS token takes no part, and the masked attentions go through `out_proj`
# alone, past the inner `attention.out_proj`.
UNUSED = re.compile(
    r"image_encoder\.cls_token|pe_layer\..*|prompt_encoder\.(point_embeddings\.\d+|not_a_point_embed|no_mask_embed)\.weight"
    r"|mask_decoder\.transformer\.layers\.\d+\.\w+\.attention\.out_proj\.(weight|bias)"
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


def reference_shapes() -> dict[str, Shape]:
    """Name and shape of the 275 parameters in the authors' checkpoints."""

    def both(name: str, *weight: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.weight", weight
        yield f"{name}.bias", weight[:1]

    def parameters() -> Iterator[tuple[str, Shape]]:
        yield "image_encoder.cls_token", (1, 1, 384)
        yield "image_encoder.pos_embed", (1, 785, 384)
        yield from both("image_encoder.patch_embed.proj", 384, 3, 8, 8)
        for i in range(12):
            block = f"image_encoder.blocks.{i}"
            yield from both(f"{block}.norm1", 384)
            yield from both(f"{block}.attn.qkv", 1152, 384)
            yield from both(f"{block}.attn.proj", 384, 384)
            yield from both(f"{block}.norm2", 384)
            yield from both(f"{block}.mlp.fc1", 1536, 384)
            yield from both(f"{block}.mlp.fc2", 384, 1536)
        yield from both("image_encoder.norm", 384)
        for prefix in ("prompt_encoder.", ""):
            yield f"{prefix}pe_layer.positional_encoding_gaussian_matrix", (2, 192)
        for name in ("point_embeddings.0", "point_embeddings.1", "not_a_point_embed", "no_mask_embed"):
            yield f"prompt_encoder.{name}.weight", (1, 384)
        decoder = "mask_decoder.transformer"
        attentions = [f"{decoder}.final_attn_token_to_image"]
        for i in range(2):
            layer = f"{decoder}.layers.{i}"
            masked = [f"{layer}.self_attn", f"{layer}.cross_attn_image_to_token"]
            attentions += [*masked, f"{layer}.cross_attn_token_to_image"]
            for attention in masked:
                yield from both(f"{attention}.attention.out_proj", 192, 192)
            for j in range(1, 5):
                yield from both(f"{layer}.norm{j}", 384)
            yield from both(f"{layer}.mlp.lin1", 2048, 384)
            yield from both(f"{layer}.mlp.lin2", 384, 2048)
        for attention in attentions:
            for part in "qkv":
                yield from both(f"{attention}.{part}_proj", 192, 384)
            yield from both(f"{attention}.out_proj", 384, 192)
        yield from both(f"{decoder}.norm_final_attn", 384)
        yield "mask_decoder.mask_tokens.weight", (1, 384)
        for i, channels in ((0, (384, 96)), (3, (96, 48))):  # transposed convolutions: (in, out, 2, 2)
            yield f"mask_decoder.output_upscaling.{i}.weight", (*channels, 2, 2)
            yield f"mask_decoder.output_upscaling.{i}.bias", channels[1:]
        yield from both("mask_decoder.output_upscaling.1", 96)
        for mlp, out in (("output_hypernetworks_mlps", 48), ("Contrast_mlp", 384)):
            for i, width in enumerate((384, 384, out)):
                yield from both(f"mask_decoder.{mlp}.layers.{i}", width, 384)
        yield from both("mask_decoder.decode_head1.0", 256, 48, 3, 3)
        yield from both("mask_decoder.decode_head1.1", 256)
        yield from both("mask_decoder.decode_head2.0", 256, 256, 3, 3)
        yield from both("mask_decoder.decode_head2.1", 256)
        yield from both("mask_decoder.decode_head2.3", 1, 256, 1, 1)

    return dict(parameters())


def convert_reference_state_dict(state_dict: Mapping[str, Tensor], grid: int = 48) -> dict[str, Tensor]:
    """The authors' state dict as ours, for the paper-size network on crops of ``grid * 8`` pixels.

    Besides the names only the position embedding changes: it is resized to the ``grid`` as DINO does it. Parameters
    that their forward pass never reads are checked and left out.

    Raises:
        ValueError: with every name that is missing, unexpected, or of another shape or type.
    """
    expected = {name: Expected(shape) for name, shape in reference_shapes().items()}
    require_matching_state(state_dict, expected, "not the authors' network.")
    converted = {rename(name): value for name, value in state_dict.items() if not UNUSED.fullmatch(name)}
    positions = converted["backbone.vit.pos_embed"]
    return {**converted, "backbone.vit.pos_embed": resize_position_embedding(positions, grid)}


def rename(name: str) -> str:
    """Our name for one of theirs."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    linear = re.match(r"^((?:segmentation_head\.mlp|decoder\.contrastive_mlp)\.)(\d+)(\..*)$", name)
    if linear:  # a ReLU stands between two linear layers
        name = f"{linear[1]}{2 * int(linear[2])}{linear[3]}"
    return name


def resize_position_embedding(embedding: Tensor, grid: int) -> Tensor:
    """(1, 1 + n * n, D), the CLS token's first -> (1, grid * grid, D); bicubic, DINO's scale (grid + 0.1) / n."""
    patches = embedding[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return patches
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode="bicubic")
    return patches.permute(0, 2, 3, 1).flatten(1, 2)
