"""Encoders that run without this project: raw frames and PCM in, unit vectors out; files, model card and Hub."""
