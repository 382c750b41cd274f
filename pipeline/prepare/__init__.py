"""Prepares a folder of videos as shards."""
