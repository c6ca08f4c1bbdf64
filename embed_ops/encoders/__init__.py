"""Families of models. Read `base.py` first; each family is a folder whose `encoder.py` begins it."""
