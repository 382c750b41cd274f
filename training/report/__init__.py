"""A one-page report that compares runs."""
