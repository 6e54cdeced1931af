"""The image encoder, and the size of the whole network."""

from __future__ import annotations

from prompt_das.config.defaults import add_prompt_das_config
from prompt_das.modeling.backbone import ViTBackbone

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from torch import nn

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}


@pytest.fixture
def backbone() -> ViTBackbone:
    return ViTBackbone(**SMALL).eval()


@pytest.mark.parametrize("stem", ["linear", "conv"])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (16, 40), (64, 24)])
def test_one_feature_per_patch_whatever_the_size(stem: str, size: tuple[int, int]) -> None:
    height, width = size
    features = ViTBackbone(**SMALL, stem=stem)(torch.randn(2, 3, *size))["vit"]
    assert features.shape == (2, 16, height // 8, width // 8)


def test_features_lie_where_their_patch_lies(backbone: ViTBackbone) -> None:
    """Without attention and position nothing but a patch's own pixels reach its feature."""
    backbone.vit.blocks = nn.Sequential()
    image = torch.zeros(1, 3, 16, 40)
    other = image.clone()
    other[..., 8:16, 24:32] = 1  # row 1, column 3
    with torch.no_grad():
        changed = (backbone(other)["vit"] - backbone(image)["vit"]).abs().amax(1)[0] > 1e-6
    assert changed.nonzero().tolist() == [[1, 3]]


def test_patches_differ_by_their_position(backbone: ViTBackbone) -> None:
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 32, 32))["vit"].flatten(2)[0].T
    assert torch.pdist(features).min() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": "cubic"}, "MODEL.VIT.STEM is 'cubic'; use 'linear' or 'conv'"),
        ({"stem": "conv", "patch_size": 6}, "MODEL.VIT.PATCH_SIZE that is a power of 2, not 6"),
    ],
)
def test_an_impossible_stem_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTBackbone(**{**SMALL, **change})


def test_output_shape_describes_the_output(backbone: ViTBackbone) -> None:
    shape = backbone.output_shape()["vit"]
    assert (shape.channels, shape.stride, backbone.size_divisibility) == (16, 8, 8)


def test_it_is_built_from_the_registry(tiny_cfg: CfgNode) -> None:
    assert "build_vit_backbone" in BACKBONE_REGISTRY
    backbone = build_backbone(tiny_cfg)
    assert backbone.output_shape()["vit"].channels == tiny_cfg.MODEL.VIT.EMBED_DIM
    assert backbone.vit.pos_embed.shape == (1, 4 * 4, 32)  # crops of 32 pixels: nothing to interpolate in training


def test_the_paper_s_size() -> None:
    """ViT-S/8 and the rest: 28.2 million parameters and a position embedding for each of the 48 x 48 patches of a crop.

    The paper states 28.7 million. DINO's ViT-S/8, which it starts from, holds 28 x 28 positions and a CLS token:
    0.3 million instead of our 0.9 million, which is 28.5.
    """
    cfg = get_cfg()
    add_prompt_das_config(cfg)
    cfg.MODEL.DEVICE = "meta"  # no memory, no initialization
    with torch.device("meta"):
        model = build_model(cfg)
    encoder = model.backbone.vit
    assert (encoder.embed_dim, len(encoder.blocks), encoder.blocks[0].attn.num_heads) == (384, 12, 6)
    assert encoder.norm.eps == encoder.blocks[0].norm1.eps == 1e-6
    assert encoder.pos_embed.shape == (1, 48 * 48, 384)
    assert model.prompt_encoder.frequencies.shape == (2, 192)
    total = sum(p.numel() for p in model.parameters())
    assert total == 29_108_289
    assert total - encoder.pos_embed.numel() + (28 * 28 + 1 + 1) * 384 == pytest.approx(28.7e6, rel=0.01)
