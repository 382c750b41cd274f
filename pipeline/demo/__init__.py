"""Makes a demo corpus of short videos with audio."""
