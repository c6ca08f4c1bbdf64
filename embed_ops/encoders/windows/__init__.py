"""Long texts in windows; vectors of words, tokens and chunks. Read `encoder.py` first."""
