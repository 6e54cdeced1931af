"""Floating-point operations of whatever torch runs: matrix products, convolutions, attention; a multiply-add is two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad_out: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


# torch knows the kernels of a GPU, but not those of a processor.
OF_A_PROCESSOR = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_flop(run: Callable[[], Any]) -> int:
    """FLOP of ``run()``, a backward pass in it included.

    The backward pass of attention computes its scores once more, as the kernels do: 2.5 times the forward pass.
    """
    with FlopCounterMode(display=False, custom_mapping=OF_A_PROCESSOR) as counter:
        run()
    return counter.get_total_flops()
