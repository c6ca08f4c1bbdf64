"""Kinds of stages, without Ray and without files. Read `base.py` first."""
