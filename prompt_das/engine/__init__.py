"""Training: mean teacher, pseudo-labels, solver, trainer."""

from .launch import launch
from .mean_teacher import MeanTeacher
from .trainer import PromptDASTrainer, evaluate

__all__ = ["MeanTeacher", "PromptDASTrainer", "evaluate", "launch"]
