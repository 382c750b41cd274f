"""Shows where in the frame a sound comes from."""
