"""The reference loader over raw videos, with decord: written to be read, not to be fast."""
