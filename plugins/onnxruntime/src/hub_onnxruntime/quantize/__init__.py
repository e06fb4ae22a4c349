"""From a float32 ONNX model to each precision that ONNX Runtime computes in. Imports no framework."""
