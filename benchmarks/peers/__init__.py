"""Loaders that people use today, made to do the same work as ours: same videos, clips, crops, colours, log-mel."""
