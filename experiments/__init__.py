"""Experiments on whether an active dictionary helps; each is a reproducible sweep of trials."""

from common.environment import ROOT

RESULTS = ROOT / "experiments" / "results"
"""Folder of the recorded results."""
