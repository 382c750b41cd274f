"""Data sets of any number of samples: making them, measuring them, and the model of docs/scale.md."""
