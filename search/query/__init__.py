"""Searches an index by a sound, a video, a picture or one of its own rows."""
