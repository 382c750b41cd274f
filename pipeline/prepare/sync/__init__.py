"""Keeps a prepared folder in step with its source folders: recognises them, finds changed files, edits the indexes."""
