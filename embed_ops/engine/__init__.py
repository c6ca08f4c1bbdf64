"""Where the steps run: Ray, its session, its tasks; knows nothing of models."""
