"""Shared basics that every package may import: randomness, files, environment, progress."""
