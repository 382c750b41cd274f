"""A page with a map of the embeddings."""
