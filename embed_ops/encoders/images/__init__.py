"""Images through vision models. Read `encoder.py` first."""
