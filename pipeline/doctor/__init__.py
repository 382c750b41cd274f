"""Reports what this machine can do."""
