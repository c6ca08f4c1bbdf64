"""Static word vectors. Read `encoder.py` first."""
