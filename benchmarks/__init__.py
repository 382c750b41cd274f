"""What the parts cost beside the alternatives: one command per question, `python -m benchmarks.NAME`."""
