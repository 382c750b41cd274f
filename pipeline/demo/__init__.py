"""A demo corpus of short videos with sound."""
