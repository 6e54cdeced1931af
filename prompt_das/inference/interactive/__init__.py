"""Interactive segmentation of a slice: the predictor, and what it keeps between clicks."""

from prompt_das.inference.interactive.newest_call import Superseded
from prompt_das.inference.interactive.predictor import Centers, Predictor, Segmentation

__all__ = ["Centers", "Predictor", "Segmentation", "Superseded"]
