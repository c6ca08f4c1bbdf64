"""Mini-batch k-means: `stage.py` fits, `model.py` gives labels."""
