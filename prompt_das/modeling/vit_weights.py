"""Pretrained weights for the image encoder: a DINO or timm file, or the name of a timm model."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from prompt_das.checkpoint.safe_load import check_weights, read_checkpoint
from prompt_das.checkpoint.state_dict import expected_of, require_matching_state

import timm
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

logger = logging.getLogger(__name__)

PREFIXES = ("module.", "backbone.")
NOT_OURS = ("head.", "fc_norm.", "mask_token")  # heads of the pretraining; ours come after the encoder


def load_vit_weights(vit: VisionTransformer, weights: str) -> None:
    """Fill ``vit`` from a file (``.pth`` or ``.safetensors``) or, if there is no such file, from a timm model's name.

    A DINO training checkpoint (``teacher`` and ``student`` in one file) gives the teacher.

    Raises:
        FileNotFoundError: neither a file nor a timm model.
        ConnectionError: a timm model that could not be downloaded.
        ValueError: weights of another network; the message names what does not fit.
    """
    state = read_checkpoint(weights) if Path(weights).is_file() else download(weights)
    converted = convert_vit_state_dict(check_weights(state.get("teacher", state), weights), vit)
    message = f"MODEL.VIT.WEIGHTS {weights}: these are not the weights of MODEL.VIT."
    require_matching_state(converted, expected_of(vit.state_dict()), message)
    vit.load_state_dict(converted)
    logger.info("The image encoder starts from %s", weights)


def convert_vit_state_dict(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
    """Convert weights in DINO's or timm's layout to those of ``vit``.

    They get its names, lose the CLS token, and positions (1, h · w, D) are resampled to its patch grid.
    """
    converted = {}
    for name, value in state.items():
        while name.startswith(PREFIXES):
            name = name.removeprefix(next(p for p in PREFIXES if name.startswith(p)))
        if name != "cls_token" and not name.startswith(NOT_OURS):
            converted[name] = value
    if "pos_embed" in converted:
        grid = list(vit.patch_embed.grid_size)
        num_extra = 1 if "cls_token" in {name.split(".")[-1] for name in state} else 0
        positions = converted["pos_embed"]
        num_patches = positions.shape[1] - num_extra if positions.ndim == 3 and len(positions) == 1 else 0
        if num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches:  # else its shape will not fit
            converted["pos_embed"] = resample_abs_pos_embed(positions[:, num_extra:], grid, num_prefix_tokens=0)
    return converted


def download(name: str) -> dict[str, Tensor]:
    """The weights of timm's pretrained model ``name``."""
    scratch = 'to train from scratch set MODEL.VIT.WEIGHTS ""'
    if not timm.is_model(name.split(".")[0]):
        raise FileNotFoundError(f"MODEL.VIT.WEIGHTS {name!r} is neither a file nor the name of a timm model; {scratch}")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError) as e:
        raise ConnectionError(
            f"MODEL.VIT.WEIGHTS {name}: could not be downloaded ({type(e).__name__}). On a machine with a network take "
            f"dino_deitsmall8_pretrain.pth from the DINO project's page, or model.safetensors of timm/{name}, put it "
            f"anywhere and set MODEL.VIT.WEIGHTS to its path; {scratch}"
        ) from e
