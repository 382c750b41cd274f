"""Evaluation protocols for the query encoders of a checkpoint."""
