"""Prompt-DAS: annotation-efficient domain-adaptive instance segmentation of electron microscopy images.

Importing the package fills Detectron2's registries: data sets, backbone, heads, meta-architecture.
"""

from prompt_das.compat import import_detectron2

__version__ = "0.1.0"

import_detectron2()

from prompt_das import data, modeling  # noqa: E402  (Detectron2 must be importable first)

__all__ = ["__version__", "data", "modeling"]
