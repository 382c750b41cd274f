"""Exact D² sampling: proposals, bounds, acceptance and the FAISS index."""
