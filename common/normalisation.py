"""Means and standard deviations of the colours, which frames are normalised with: (RGB in [0, 1] - mean) / std."""

from __future__ import annotations

VIDEO_MEAN = (0.43216, 0.394666, 0.37645)
"""Mean of Kinetics-400 in RGB, as torchvision's video ResNets expect it; every batch is normalised with it."""
VIDEO_STD = (0.22803, 0.22145, 0.216989)
"""Standard deviation of Kinetics-400 in RGB, as torchvision's video ResNets expect it."""
