"""Precision ONNX: float16, bfloat16, fp8 and integer models as TensorRT takes them."""
