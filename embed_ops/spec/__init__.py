"""What a run is told: the sections of the TOML file, checked. Read `spec.py` first."""
