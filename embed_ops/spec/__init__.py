"""What a run is told: the sections of the TOML file, checked.

Read `spec.py` first, then `source.py`, `encoder.py` and `stage.py`: a class for each kind.
"""
