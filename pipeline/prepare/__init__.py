"""Prepares the videos of a folder as shards, which the loaders read."""
