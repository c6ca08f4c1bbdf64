"""A run directory: its files, its records, what is left, its rows, its proof.

Read `directory.py` first.
"""
