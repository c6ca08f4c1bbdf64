"""Models as ONNX files, run by onnxruntime; begin with `encoder.py`."""
