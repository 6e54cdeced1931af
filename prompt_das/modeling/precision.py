"""The type of matrix products (``MODEL.PRECISION``), as far as a device has instructions for it."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

AMPERE = (8, 0)  # the first NVIDIA GPUs that multiply bfloat16

logger = logging.getLogger(__name__)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself, instead of torch in its place."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    # The question by which torch itself chooses between oneDNN and plain loops; there is no public name for it.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@lru_cache
def computed_precision(precision: str, device: torch.device) -> str:
    """``precision`` ("float32" or "bfloat16"), but float32 where a device has no bfloat16 and torch would emulate it.

    Emulated products take 10 to 50 times as long as those of float32, for example on CPUs without AVX-512.
    """
    if precision == "bfloat16" and not has_bfloat16(device):
        logger.info(f"MODEL.PRECISION is bfloat16, which this {device.type.upper()} lacks: computing in float32")
        return "float32"
    return precision
