"""Which samples a step trains on, which seconds of them, and which crop: NumPy only."""
