"""Model families. A new one is one file here and one line in `embed_ops.registry`."""
