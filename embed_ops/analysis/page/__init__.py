"""The page about a run for a browser. Read `write.py` first."""
