"""An HTML page to explore the embeddings of a run."""
