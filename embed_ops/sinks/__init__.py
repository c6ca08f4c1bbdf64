"""Where embeddings are written."""
