"""Measures how well search.curate finds swapped sounds."""
