"""Finds a model: a folder, an object store, the Hugging Face hub. Read `folder.py` first."""
