"""What `fit-weights` and `fit-graph` make."""
