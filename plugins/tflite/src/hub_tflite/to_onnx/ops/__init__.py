"""The operator functions, by theme; see `hub_tflite.to_onnx.registry` for their contract."""
