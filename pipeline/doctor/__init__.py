"""Checks what this machine can do."""
