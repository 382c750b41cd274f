"""Cuts files into several samples: the segments of published lists, and windows of a fixed length."""
