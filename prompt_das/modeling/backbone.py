"""The image encoder: timm's plain ViT as a Detectron2 backbone (Prompt-DAS, Sec. 2.1: ViT-S/8)."""

from __future__ import annotations

from itertools import pairwise

from prompt_das.modeling.registry import look_up
from prompt_das.modeling.vit_weights import load_vit_weights

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def conv_stem(in_channels: int, embed_dim: int, patch_size: int) -> nn.Sequential:
    """3x3 convolutions of stride 2 instead of one patch projection (Xiao et al. 2021).

    A small ViT that starts from noise and trains for minutes learns several times faster with it.
    """
    num_layers = patch_size.bit_length() - 1
    if 2**num_layers != patch_size:
        raise ValueError(f"MODEL.VIT.STEM conv needs a MODEL.VIT.PATCH_SIZE that is a power of 2, not {patch_size}")
    dims = [in_channels, *(embed_dim // 2**i for i in reversed(range(num_layers)))]
    layers: list[nn.Module] = []
    for a, b in pairwise(dims):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(1, b), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))


def build_backbone(cfg: CfgNode) -> Backbone:
    """Build ``cfg.MODEL.BACKBONE.NAME`` for images of 3 channels.

    Raises:
        ValueError: no such backbone is registered, or it has no output "vit".
    """
    name = cfg.MODEL.BACKBONE.NAME
    backbone = look_up(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", name)(cfg, ShapeSpec(channels=3))
    if "vit" not in backbone.output_shape():
        outputs = ", ".join(backbone.output_shape())
        raise ValueError(f"MODEL.BACKBONE.NAME is {name!r}, whose outputs are {outputs}; an output 'vit' is needed")
    return backbone


class ViTBackbone(Backbone):
    """One feature map, ``"vit"``, at stride ``patch_size``, from patch tokens alone: there is no CLS token."""

    @configurable
    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        stem: str = "linear",
    ) -> None:
        """
        Args:
            image_size: side in pixels for which position embeddings are stored; other sizes are interpolated.
            stem: how a patch becomes a token: "linear" (the plain ViT) or "conv" (:func:`conv_stem`).
        """
        if stem not in ("linear", "conv"):
            raise ValueError(f"MODEL.VIT.STEM is {stem!r}; use 'linear' or 'conv'")
        super().__init__()
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        self.vit = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
            global_pool="",
            class_token=False,
            dynamic_img_size=True,
        )
        if stem == "conv":
            self.vit.patch_embed.proj = conv_stem(3, embed_dim, patch_size)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.VIT
        return {
            "image_size": cfg.INPUT.CROP_SIZE,
            "patch_size": node.PATCH_SIZE,
            "embed_dim": node.EMBED_DIM,
            "depth": node.DEPTH,
            "num_heads": node.NUM_HEADS,
            "mlp_ratio": node.MLP_RATIO,
            "stem": node.STEM,
        }

    @property
    def size_divisibility(self) -> int:
        return self.patch_size

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"vit": ShapeSpec(channels=self.embed_dim, stride=self.patch_size)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, 3, H, W), H and W multiples of the patch size -> {"vit": (B, D, H / patch, W / patch)}."""
        h, w = (side // self.patch_size for side in x.shape[-2:])
        patches = self.vit.forward_features(x)
        return {"vit": patches.transpose(1, 2).unflatten(-1, (h, w))}


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> ViTBackbone:
    """The ViT of ``cfg.MODEL.VIT`` for 3 channels; ``input_shape`` is not used.

    ``MODEL.VIT.WEIGHTS`` are only loaded where ``MODEL.WEIGHTS``, those of the whole network, are not given.
    """
    backbone = ViTBackbone(cfg)
    if cfg.MODEL.VIT.WEIGHTS and not cfg.MODEL.WEIGHTS:
        load_vit_weights(backbone.vit, cfg.MODEL.VIT.WEIGHTS)
    return backbone
