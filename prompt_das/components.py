"""Connected components of a batch of masks, on the device where they lie, without waiting for it.

Shapes: B images, H×W pixels. A pixel's index is its place in raster order, row · W + column.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def component_roots(mask: Tensor, kernel: int = 3) -> Tensor:
    """The first pixel of every component, told to all of its pixels.

    Every pixel takes the smallest index that it sees, and tells it to the pixel that it followed so far; following
    that one twice (pointer jumping) makes the number of rounds logarithmic in the length of a component: spirals and
    serpentines, the worst that we know, need log2 of the longer side and one or two more. A GPU does a fixed number of
    rounds, since asking whether anything has changed would make it wait; a CPU stops where nothing has.

    Args:
        mask: (B, H, W) bool.
        kernel: odd width of the window in which two pixels are neighbours; 3 is 8-connectivity.

    Returns:
        int64 (B, H, W): the smallest index of the pixel's component; of a pixel outside the mask its own.
    """
    batch, height, width = mask.shape
    own = torch.arange(height * width, device=mask.device).expand(batch, -1)
    exact = torch.float32 if height * width <= 1 << 24 else torch.float64  # windows have a maximum of floats only
    inside = mask.flatten(1)
    root = own
    for _ in range(math.ceil(math.log2(max(height, width, 1))) + 4):
        seen = -root.to(exact).masked_fill(~inside, math.inf).view(batch, height, width)
        smallest = -window_max(seen, kernel).flatten(1)
        smallest = torch.where(inside, smallest, own.to(exact)).long()
        # A followed pixel learns what its followers see, so that a whole branch moves at once.
        smallest = torch.scatter_reduce(smallest, 1, root, smallest, "amin")
        for _ in range(2):
            smallest = smallest.gather(1, smallest)
        if mask.device.type == "cpu" and torch.equal(smallest, root):
            break
        root = smallest
    return root.view(batch, height, width)


def window_max(values: Tensor, kernel: int) -> Tensor:
    """Maximum over a kernel×kernel window, (B, H, W) -> (B, H, W); rows first, then columns, is cheaper than both."""
    values = F.max_pool2d(values, (kernel, 1), stride=1, padding=(kernel // 2, 0))
    return F.max_pool2d(values, (1, kernel), stride=1, padding=(0, kernel // 2))
