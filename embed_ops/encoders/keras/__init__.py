"""Networks in files of Keras, run by Keras on torch; begin with `encoder.py`."""
