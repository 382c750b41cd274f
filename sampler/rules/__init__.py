"""The selection rules, one per file."""
