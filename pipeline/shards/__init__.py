"""The on-disk format of prepared data; no other package writes or reads it."""
