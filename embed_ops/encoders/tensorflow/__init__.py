"""SavedModels, run by TensorFlow; begin with `encoder.py`."""
