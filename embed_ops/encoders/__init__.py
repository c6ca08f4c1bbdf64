"""Families of models. Read `base.py` first.

Each family is a folder whose `encoder.py` begins it.
"""
