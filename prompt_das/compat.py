"""Import of Detectron2, old builds included. No other module depends on how it was built.

Detectron2 is not on the package index under its own name. `pb1-detectron2` there holds upstream's Python files of
October 2021 (version 0.6) without the compiled operators `detectron2._C`. Two things keep it from being imported today:

* `detectron2.data.transforms` names `PIL.Image.LINEAR`, which left Pillow with version 10;
* `detectron2.layers` and `detectron2.evaluation` import `_C` at the top of a file. Upstream has since learnt to do
  without it: that came together with `detectron2.utils.develop`, whose absence is how an old build is recognized.

Both are lent for the time of the first import and taken back, so that nothing outside sees them and Detectron2's own
"not built" paths work. With a current upstream build nothing is changed.

A program that uses both packages imports `prompt_das` first; the linter sorts imports that way.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

_NOT_INSTALLED = """prompt_das needs Detectron2, which is not installed in {prefix}.
Either build it from upstream's source (C++ compiler needed):
    pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2.git
or take its pure Python part from the package index, into an environment that already has torch, torchvision, uv and
"setuptools>=77,<81", but not the package "wheel":
    uv pip install --no-deps --no-build-isolation -C=--global-option=build_py -C=--build-option=--skip-build \
pb1-detectron2==0.6
or run `make install` in a clone of prompt_das, which makes such an environment. README.md says more."""


def import_detectron2() -> None:
    """Import Detectron2's packages that an old build cannot import by itself.

    Raises:
        ImportError: Detectron2 is not installed; the message says how to install it.
    """
    spec = find_spec("detectron2")
    if spec is None or spec.origin is None:  # without origin: some folder named detectron2, e.g. a clone next to us
        raise ImportError(_NOT_INSTALLED.format(prefix=sys.prefix), name="detectron2")
    with _pillow_linear(), _compiled_operators():
        importlib.import_module("detectron2.layers")
        importlib.import_module("detectron2.evaluation")


@contextmanager
def _pillow_linear() -> Iterator[None]:
    """Lend `PIL.Image.LINEAR`, the old name of BILINEAR, to a Pillow that has lost it."""
    import PIL.Image

    if hasattr(PIL.Image, "LINEAR"):
        yield
        return
    PIL.Image.LINEAR = PIL.Image.BILINEAR  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del PIL.Image.LINEAR  # type: ignore[attr-defined]


@contextmanager
def _compiled_operators() -> Iterator[None]:
    """Lend a stand-in for `detectron2._C` to an old build that lacks it."""
    name = "detectron2._C"
    if find_spec("detectron2.utils.develop") is not None or find_spec(name) is not None:
        yield
        return
    sys.modules[name] = _NotCompiled(name)
    try:
        yield
    finally:
        del sys.modules[name]


class _NotCompiled(ModuleType):
    """A module in which every public name is missing, with the reason."""

    def __getattr__(self, attribute: str) -> object:
        raise AttributeError(
            f"{self.__name__}.{attribute} is missing: this Detectron2 was installed without its compiled operators. "
            "Nothing in prompt_das needs them; build Detectron2 from upstream's source if you do (README.md)."
        )
