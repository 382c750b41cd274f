"""The format on disk: written and read here only."""
