"""Look-up of a part of the network by the name that the config gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fvcore.common.registry import Registry


def look_up(registry: Registry, key: str, name: str) -> Callable[..., Any]:
    """The class or function that is registered under ``name``.

    Args:
        key: of the config, whose value ``name`` is.

    Raises:
        ValueError: there is none; the message lists the names there are, and how to add one.
    """
    if name not in registry:
        names = ", ".join(sorted(registered for registered, _ in registry))
        raise ValueError(
            f"{key} is {name!r}, which is not registered; there are {names}. To add one of your own: --plugin "
            "my_parts.py, a file that registers it (docs/reference/extending.md)"
        )
    return registry.get(name)
