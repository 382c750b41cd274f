"""Checks whether this machine can train, and with what."""
