"""Interactive segmentation of a slice: the predictor, and what it keeps between clicks."""

from prompt_das.inference.interactive.newest_call import Superseded
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.segmentation import Centers, Segmentation

__all__ = ["Centers", "Predictor", "Segmentation", "Superseded"]
