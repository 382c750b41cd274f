"""Checks whether this machine can train, and verifies prepared data sets."""
