"""Comparison of a state dict with the one that a network expects: names, shapes, kinds of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Expected(NamedTuple):
    """What is expected under a name."""

    shape: tuple[int, ...]
    is_floating_point: bool = True


def expected_of(state: Mapping[str, Tensor]) -> dict[str, Expected]:
    """The names, shapes and kinds of a network's own state dict."""
    return {name: Expected(tuple(value.shape), value.is_floating_point()) for name, value in state.items()}


def require_matching_state(state: Mapping[str, Tensor], expected: Mapping[str, Expected], message: str) -> None:
    """Raise ValueError unless ``state`` has exactly the expected names, each with its shape and kind of values.

    Args:
        message: begins the error, which then lists every name that is missing, unexpected or different.
    """
    common = [name for name in state if name in expected]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape (file, network)": [
            f"{name} {tuple(state[name].shape)}, {expected[name].shape}"
            for name in common
            if tuple(state[name].shape) != expected[name].shape
        ],
        "of another type (file, network)": [
            f"{name} {state[name].dtype}, {'floating point' if expected[name].is_floating_point else 'integer'}"
            for name in common
            if state[name].is_floating_point() != expected[name].is_floating_point
        ],
    }
    listed = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
    if listed:
        raise ValueError(f"{message} {listed}")
