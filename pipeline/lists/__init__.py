"""Reads users' lists of files: recognises the columns of a list, and finds the file that each row names."""
