"""Experiments on whether an active dictionary helps; each is a reproducible sweep of trials."""
