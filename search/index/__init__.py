"""An index of embeddings on disk: built, extended, shrunk and searched."""
