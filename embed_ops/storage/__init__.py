"""Files wherever they are: what appears whole or not at all. Read `files.py` first."""
