"""Reads media files from users with FFmpeg: opens them safely, and handles rejection, orientation, clock and sound."""
