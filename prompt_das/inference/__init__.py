"""Inference: whole slices window by window, and interactively.

``modeling`` imports from here and ``predictor`` imports ``modeling``, hence the predictor is loaded when it is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .predictor import Centers, Predictor, Segmentation, Superseded

__all__ = ["Centers", "Predictor", "Segmentation", "Superseded"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
