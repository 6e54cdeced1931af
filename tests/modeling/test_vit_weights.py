"""DINO's and timm's ViT files fill our encoder, at another input size than that of the pretraining."""

from __future__ import annotations

from pathlib import Path

from prompt_das.modeling.backbone import ViTBackbone
from prompt_das.modeling.vit_weights import load_vit_weights

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0}


def pretrained() -> VisionTransformer:
    """A DINO ViT as timm has it: with a CLS token, on 28 x 28 patches."""
    return VisionTransformer(img_size=224, num_classes=0, global_pool="", **SMALL).eval()


def encoder() -> ViTBackbone:
    return ViTBackbone(image_size=64, **SMALL).eval()


def timms_answer(model: VisionTransformer, image: Tensor) -> Tensor:
    """timm's own network for patch tokens alone, which resizes the position embedding itself."""
    timm_vit = VisionTransformer(img_size=image.shape[-1], num_classes=0, global_pool="", class_token=False, **SMALL)
    state = {**model.state_dict()}
    state.pop("cls_token")
    state["pos_embed"] = state["pos_embed"][:, 1:]
    timm_vit.load_state_dict(checkpoint_filter_fn(state, timm_vit))
    return timm_vit.eval().forward_features(image)


def dino_layout(model: VisionTransformer) -> dict[str, Tensor]:
    return model.state_dict()


def dino_training_layout(model: VisionTransformer) -> dict[str, dict[str, Tensor]]:
    teacher = {f"module.backbone.{name}": value for name, value in model.state_dict().items()}
    return {"teacher": {**teacher, "module.head.mlp.0.weight": torch.zeros(1)}, "student": {}}


@pytest.mark.parametrize("layout", [dino_layout, dino_training_layout])
def test_a_dino_file_gives_timms_answer(tmp_path: Path, layout) -> None:
    model, ours, image = pretrained(), encoder(), torch.randn(2, 3, 64, 64)
    torch.save(layout(model), tmp_path / "dino.pth")
    load_vit_weights(ours.vit, str(tmp_path / "dino.pth"))
    with torch.no_grad():
        answer = ours(image)["vit"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(answer, timms_answer(model, image), rtol=0, atol=1e-5)


def test_a_timm_safetensors_file_gives_timms_answer(tmp_path: Path) -> None:
    model, ours, image = pretrained(), encoder(), torch.randn(1, 3, 64, 64)
    save_file({**model.state_dict(), "head.weight": torch.zeros(3, 32)}, tmp_path / "model.safetensors")
    load_vit_weights(ours.vit, str(tmp_path / "model.safetensors"))
    with torch.no_grad():
        answer = ours(image)["vit"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(answer, timms_answer(model, image), rtol=0, atol=1e-5)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    state = pretrained().state_dict()
    state["blocks.0.attn.qkv.weight"] = torch.zeros(1, 1)
    state.pop("norm.bias")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"missing: norm.bias.*blocks.0.attn.qkv.weight"):
        load_vit_weights(encoder().vit, str(tmp_path / "other.pth"))


def test_the_error_for_a_name_that_is_no_file_and_no_model_has_the_fix() -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a file nor the name of a timm model.*from scratch"):
        load_vit_weights(encoder().vit, "dino_v9.pth")


def test_without_a_network_the_message_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("prompt_das.modeling.vit_weights.timm.create_model", offline)
    with pytest.raises(ConnectionError, match=r"dino_deitsmall8_pretrain.pth.*MODEL.VIT.WEIGHTS"):
        load_vit_weights(encoder().vit, "vit_small_patch8_224.dino")
