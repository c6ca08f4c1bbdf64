"""The job of a graph, layer by layer. Read `run.py` first."""
