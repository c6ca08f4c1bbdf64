"""The proof that a run is complete and whole. Read `run.py` first."""
