"""What a finished run is handed to, a file for each kind. Read `base.py` first."""
