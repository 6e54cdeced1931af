"""Weights on disk: the checkpointer, safe loading, the authors' published checkpoints, models by name."""
