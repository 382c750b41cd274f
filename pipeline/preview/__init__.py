"""Draws the clips that training receives, so that people can check them."""
