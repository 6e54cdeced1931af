"""Numbers in names: an order that puts `im2` before `im10`, and how far the numbers of a series are apart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `im2` before `im10`; upper and lower case are the same."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in parts if part]


def number_step(names: Sequence[str]) -> int:
    """The largest step in which the last numbers of ``names`` can be counted: 5 for `im5.png`, `im10.png`, `im20.png`.

    It is 1 where a name has no number, and of fewer than two names.
    """
    numbers = [re.findall(r"\d+", name.rpartition(".")[0] or name)[-1:] for name in names]
    if len(numbers) < 2 or not all(numbers):
        return 1
    first = int(numbers[0][0])
    return math.gcd(*(int(number[0]) - first for number in numbers)) or 1
