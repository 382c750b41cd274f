"""Training: the step, checkpoints, processes, and what a run records."""
