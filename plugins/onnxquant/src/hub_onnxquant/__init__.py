"""What quantizers of ONNX graphs share. Imports no framework outside its functions."""
