"""Texts through transformers and sentence-transformers. Read `encoder.py` first."""
