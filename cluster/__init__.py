"""Where a job runs. Knows Ray and nothing of embeddings."""
