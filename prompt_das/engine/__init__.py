"""Training: the trainer, its solver and hooks, launching of processes."""
