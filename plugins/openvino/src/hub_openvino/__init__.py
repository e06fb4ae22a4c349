"""OpenVINO for hub: IR reader, conversion, quantization with NNCF, and the runtime."""
