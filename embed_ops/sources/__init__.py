"""Formats: source files to spans, records and units. Read `base.py`, then `corpus.py`."""
