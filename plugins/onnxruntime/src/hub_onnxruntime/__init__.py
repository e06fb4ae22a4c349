"""ONNX for hub: the format's reader, its preparation for converters, ONNX Runtime, and ONNX -> TFLite by onnx2tf."""
