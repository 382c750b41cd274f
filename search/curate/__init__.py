"""Finds what spoils a data set: mismatched pairs, near-duplicates, silence and still pictures."""
