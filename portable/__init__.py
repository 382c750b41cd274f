"""Encoders that run without this project, from raw frames and PCM to embeddings; their files, model card and Hub."""
