"""What the device can do at best: rates of matrix products, and of a copy in its own memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .measure import seconds

# Rows, inner length and columns. The last is the encoder's MLP on 4 crops of 384²: short, it waits for the memory.
PRODUCTS = {
    "cuda": [(4096, 4096, 4096), (6144, 6144, 6144), (8192, 8192, 8192), (9216, 384, 1536)],
    "cpu": [(512, 512, 512)],
}
COPIED = {"cuda": 1 << 30, "cpu": 64 << 20}  # bytes: more than any cache holds
LOOP = {"cuda": 10, "cpu": 1}  # runs between two marks
KINDS = {"bfloat16": (torch.bfloat16, False), "float32": (torch.float32, False), "TF32": (torch.float32, True)}


def measure_ceilings(device: torch.device, repeats: int) -> dict[str, Any]:
    """TFLOP/s of each kind and shape, and GB/s of a copy (read + written): the best of ``repeats``, random inputs."""
    rates: dict[str, dict[str, float]] = {}
    for kind, (dtype, tf32) in KINDS.items():
        if tf32 and device.type == "cpu":
            continue
        with tf32_allowed(tf32):
            rates[kind] = {
                "×".join(map(str, shape)): _product_rate(shape, dtype, device, repeats) / 1e12
                for shape in PRODUCTS[device.type]
            }
    return {
        "TFLOP/s": rates,
        "copy, GB/s": _copy_rate(device, repeats) / 1e9,
        "memory, GB": torch.cuda.get_device_properties(device).total_memory / 1e9 if device.type == "cuda" else None,
        "CUDA": torch.version.cuda,
    }


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Whether float32 products and convolutions may be computed in TF32, for a while; torch lets convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def fastest(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of one ``run()``: several between two marks on the device's own clock, the best of ``repeats``."""
    loop = LOOP[device.type]
    times = []
    for _ in range(repeats + 1):  # the first warms up
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(loop):
                run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / loop)
        else:
            times.append(seconds(run))
    return min(times[1:])


def _product_rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    product = torch.empty(rows, columns, dtype=dtype, device=device)
    return 2 * rows * inner * columns / fastest(lambda: torch.mm(a, b, out=product), device, repeats)


def _copy_rate(device: torch.device, repeats: int) -> float:
    source = torch.randint(0, 255, (COPIED[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / fastest(lambda: target.copy_(source), device, repeats)
