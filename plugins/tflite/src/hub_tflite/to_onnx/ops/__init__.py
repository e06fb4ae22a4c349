"""The operator functions, by theme; see `hub_tflite.to_onnx.table` for their contract."""
