"""Benchmarks of the parts against their alternatives: one command per question, `python -m benchmarks.NAME`."""
