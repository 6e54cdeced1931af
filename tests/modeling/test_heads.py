"""The two heads on the decoder's features."""

from __future__ import annotations

from prompt_das.modeling.heads import (
    CENTER_HEAD_REGISTRY,
    CenterPointHead,
    PointPromptSegHead,
    build_center_head,
    build_segmentation_head,
)

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn


def test_a_logit_is_the_dot_product_of_token_and_feature() -> None:
    head = PointPromptSegHead(dim=2, in_channels=2)
    head.mlp = nn.Identity()
    features = torch.tensor([[[[1.0, 0.0, -1.0]], [[0.0, 1.0, 2.0]]]])  # (1, 2, 1, 3)
    assert head(torch.tensor([[3.0, 5.0]]), features).tolist() == [[[3.0, 5.0, 7.0]]]


def test_every_image_is_classified_by_its_own_token() -> None:
    head = PointPromptSegHead(dim=6, in_channels=4)
    tokens, features = torch.randn(3, 6), torch.randn(3, 4, 5, 7)
    logits = head(tokens, features)
    assert logits.shape == (3, 5, 7)
    for i in range(3):
        torch.testing.assert_close(logits[i], head(tokens[i : i + 1], features[i : i + 1])[0])
    assert not torch.allclose(head(tokens.flip(0), features)[0], logits[0])


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_the_density_has_twice_the_size_of_the_features(size: tuple[int, int]) -> None:
    head = CenterPointHead(in_channels=4, channels=8)
    assert head(torch.randn(2, 4, *size)).shape == (2, 2 * size[0], 2 * size[1])


def test_the_density_is_linear_at_its_end() -> None:
    """No activation: a last layer of weight 0 and bias b says b everywhere, also below zero."""
    head = CenterPointHead(in_channels=4, channels=8)
    last = head.fine[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -3.5)
    assert (head(torch.randn(1, 4, 6, 6)) == -3.5).all()


def test_images_of_a_batch_do_not_mix() -> None:
    """Group normalization, unlike batch normalisation, looks at one image at a time."""
    head = CenterPointHead(in_channels=4, channels=8)
    features = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(head(features)[:1], head(features[:1]))


def test_both_heads_come_from_their_registries(tiny_cfg: CfgNode) -> None:
    assert "PointPromptSegHead" in SEM_SEG_HEADS_REGISTRY
    assert "CenterPointHead" in CENTER_HEAD_REGISTRY
    tiny_cfg.MODEL.CENTER_HEAD.CHANNELS = 16
    center = build_center_head(tiny_cfg, 4)
    assert center.fine[0].weight.shape == (16, 16, 3, 3)
    segmentation = build_segmentation_head(tiny_cfg, 32, 4)
    assert segmentation(torch.randn(1, 32), torch.randn(1, 4, 2, 2)).shape == (1, 2, 2)


def test_a_head_of_ones_own_is_chosen_by_name(tiny_cfg: CfgNode) -> None:
    class Silent(nn.Module):
        def __init__(self, cfg: CfgNode, in_channels: int) -> None:
            super().__init__()
            self.in_channels = in_channels

    CENTER_HEAD_REGISTRY._do_register("Silent", Silent)
    try:
        tiny_cfg.MODEL.CENTER_HEAD.NAME = "Silent"
        head = build_center_head(tiny_cfg, 4)
    finally:
        CENTER_HEAD_REGISTRY._obj_map.pop("Silent")
    assert isinstance(head, Silent)
    assert head.in_channels == 4
