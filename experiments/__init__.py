"""Experiments: does an active dictionary help? Each is a sweep of trials that anyone can rerun."""
