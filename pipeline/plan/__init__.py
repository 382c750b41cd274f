"""Plans which samples a step trains on, and the start, crop, flip and colours of each clip; needs NumPy only."""
