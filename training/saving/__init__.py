"""The files of a run: which checkpoints can be used, what they may hold, and the lock of the run folder."""
