"""TensorRT for hub: precision ONNX, engines, and what is in them."""
