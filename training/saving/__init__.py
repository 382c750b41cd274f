"""The files of a run: which checkpoints can be used, what they may hold, the lock of the run folder,
and the signals after which a run saves and stops."""
