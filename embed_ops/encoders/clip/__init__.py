"""Texts and images through CLIP models. Read `encoder.py` first."""
